package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Report is what this program states about itself in the file named by
// FOGWRIGHT_REPORT. Its reader is workd (state.Report on the box); the file
// testdata/report.json holds the two to the same JSON. Sizes are bytes, counted
// since this program started.
type Report struct {
	Sharing         bool   `json:"sharing"` // at least one item is whole and offered
	BytesServed     int64  `json:"bytes_served"`
	BytesDownloaded int64  `json:"bytes_downloaded"`
	Peers           int    `json:"peers"`
	Content         []Item `json:"content,omitempty"`
}

// Item is one item of content.
type Item struct {
	Name     string `json:"name"`
	InfoHash string `json:"info_hash,omitempty"`
	Size     int64  `json:"size"`
	Have     int64  `json:"have"` // bytes that are checked
	Error    string `json:"error,omitempty"`
}

// reportWriter replaces one file whenever the report changes. Its caller calls it
// once a second.
type reportWriter struct {
	path string
	last []byte
}

func (w *reportWriter) write(r Report) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	if bytes.Equal(b, w.last) {
		return nil
	}
	if err := replaceFile(w.path, append(b, '\n'), false); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	w.last = b
	return nil
}
