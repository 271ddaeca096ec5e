// Package netns creates, pins and enters Linux network namespaces.
//
// A network namespace belongs to an OS thread, and Go moves goroutines between
// threads. Therefore everything here that changes a namespace runs on a goroutine
// locked to its thread; a thread that cannot return to its original namespace ends
// with its goroutine, so no other goroutine ever runs in a foreign namespace.
//
// A namespace lives as long as a thread, a descriptor or a mount refers to it. Create
// pins one with a bind mount, as ip-netns(8) does, so that it outlives every process.
//
// Everything is safe for concurrent use. On systems other than Linux every call
// returns an error of kind fault.Unimplemented.
package netns
