// Package cni is the SDK for CNI plugins (CNI specification 1.1.0, serving peers down
// to 0.1.0).
//
// An author fills in Handlers, a struct of functions; a nil function means that the
// verb needs no work. The SDK does the rest of the specification. Before it calls a
// handler, it reads and checks the CNI_* environment, decodes the configuration
// (strictly: an unknown key is refused by name) and prevResult, and verifies the network
// namespace and that the interface name is free. It converts the result to the version
// of the request, runs the rollback stack when ADD fails or is canceled, delegates to
// the IPAM plugin, answers VERSION, and turns every error and every panic into one
// error object with a code from the specification's table.
//
// A plugin can be served in three ways, with the same documents in and out: Main makes
// an executable of it, Caller calls it in process, and Server is a daemon behind the
// thin executable cmd/cni-shim.
//
// A handler must survive a kill -9 at any instruction; the runtime then calls DEL. DEL
// finds what is left by names derived from the attachment, or by the records that the
// SDK keeps for plugins with State (package state). Rollback, TypesError and package
// state can also be used by plugins that are not served by this package. The runtime
// side is cni/runtime.
//
// A Plugin is immutable once it is served. Handlers are called concurrently for
// different containers. The package builds everywhere and runs on Linux. See
// examples/cni-hello.
package cni
