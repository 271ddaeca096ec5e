// Package cni is the SDK for CNI plugins (CNI specification 1.1.0, serving
// peers down to 0.1.0).
//
// An author fills in Handlers, a struct of functions; a nil function means that
// the verb needs no work. The SDK does the rest of the specification: it reads
// and checks the CNI_* environment, decodes the configuration strictly (an
// unknown key is refused by name), decodes prevResult, verifies the network
// namespace and that the interface's name is free before anything is touched,
// converts the result to the version of the request, runs the rollback stack when
// ADD fails or is told to end, delegates to the IPAM plugin, answers VERSION, and
// turns every error and every panic into one error object with a code of the
// specification's table.
//
// The same plugin is served in three ways with the same documents: Main makes an
// executable of it, Caller calls it inside a process, and Server is a daemon behind
// the thin executable cmd/cni-shim.
//
// A handler must cope with a kill -9 at any instruction, which the runtime
// follows with a DEL: by names that follow from the attachment, or by the records
// that the SDK keeps for plugins with State (package state). Rollback, TypesError
// and package state are also there for plugins that are served by something
// else. The runtime side is cni/runtime.
//
// A Plugin is immutable once it is served, and handlers are called concurrently
// for different containers. The package builds everywhere and runs on Linux.
// See examples/cni-hello.
package cni
