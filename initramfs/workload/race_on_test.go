//go:build race

package workload

// raceDetector tells that this build maps more memory than a workload may.
const raceDetector = true
