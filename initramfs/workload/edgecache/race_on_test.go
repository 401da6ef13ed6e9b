//go:build race

package main

// raceDetector tells that memory is no measure in this build.
const raceDetector = true
