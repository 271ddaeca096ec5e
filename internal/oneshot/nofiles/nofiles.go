// Package nofiles lets no file be opened between the entry of package oneshot and the
// initialisation of packages.
//
// It imports nothing, so that it is initialised before package syscall: Go initialises
// packages in the order of their paths where imports allow it. Package syscall then finds
// the limit that the process was given, and raises it, for this process only, as in other
// Go programs.
package nofiles

// Failure is the number of the error if the limit could not be given back.
var Failure uintptr
