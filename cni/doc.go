// Package cni is the SDK for CNI plugins (CNI specification 1.1.0, serving
// peers down to 0.3.0).
//
// An author fills in Handlers, a struct of functions; a nil function means that
// the verb needs no work. The SDK does the rest of the specification: it reads
// and checks the CNI_* environment, decodes the configuration strictly (an
// unknown key is refused by name), decodes prevResult, verifies the network
// namespace before anything is touched, converts the result to the version of
// the request, runs the rollback stack when ADD fails, delegates to IPAM
// plugins, answers VERSION, and turns every error and every panic into one
// error object with a code of the specification's table.
//
// The same plugin is served in two ways with the same documents: Main makes an
// executable of it, Invoke and Set call it inside a process.
//
// It is not the runtime side (that is cni/runtime), and it keeps no state: a
// handler must cope with a kill -9 at any instruction, which the runtime
// follows with a DEL.
//
// A Plugin is immutable once it is served, and handlers are called concurrently
// for different containers. The package builds everywhere and runs on Linux.
// See examples/cni-hello.
package cni
