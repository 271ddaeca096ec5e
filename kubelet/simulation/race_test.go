//go:build race

package simulation_test

// raceEnabled means fewer lives: the race detector makes lives ten times as long.
const raceEnabled = true
