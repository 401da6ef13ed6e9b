// Bench measures what builds, boots and memory cost, on this machine and side by
// side in one run: a table for people, and the same as JSON. A board that is over a
// budget of its board.toml makes it fail.
//
//	go run ./ci/bench [-boards pc-amd64,orangepi-pc] [-runs 5] [-json FILE]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fogwright/fogwright/boards"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	names := flag.String("boards", strings.Join(boards.Names(), ","), "the `boards` to measure")
	runs := flag.Int("runs", 5, "counted runs of each figure; one more warms up")
	out := flag.String("out", "out", "`folder` for images and bench.json")
	flag.Parse()
	b := bench{runs: *runs, out: *out}
	for _, name := range strings.Split(*names, ",") {
		if err := b.board(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := b.print(os.Stdout); err != nil {
		return err
	}
	text, err := json.MarshalIndent(b.figures, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(*out, "bench.json")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Printf("\nThe same as JSON: %s\n", path)
	if len(b.over) > 0 {
		return fmt.Errorf("over budget:\n  %s", strings.Join(b.over, "\n  "))
	}
	return nil
}

// Figure is one measured quantity of one board.
type Figure struct {
	Board  string    `json:"board"`
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // in the order they were measured
	Min    float64   `json:"min"`
	Median float64   `json:"median"`
	Max    float64   `json:"max"`
	Budget float64   `json:"budget,omitempty"` // the median must not be over it
}

// add notes the values of a figure and holds their median against the budget.
func (b *bench) add(board, name, unit string, budget float64, values ...float64) {
	sorted := slices.Sorted(slices.Values(values))
	f := Figure{
		Board: board, Name: name, Unit: unit, Values: values, Budget: budget,
		Min: sorted[0], Median: sorted[len(sorted)/2], Max: sorted[len(sorted)-1],
	}
	b.figures = append(b.figures, f)
	if budget > 0 && f.Median > budget {
		b.over = append(b.over, fmt.Sprintf("%s: %s is %.1f %s, its budget %.1f", board, name, f.Median, unit, budget))
	}
}
