//go:build !race

package simulation_test

// raceEnabled is false: there is time for all lives.
const raceEnabled = false
