// Package simulation runs Pods in virtual time: the real parts of the kubelet (worker,
// plan, status, observer, probes) over a simulated runtime, host and object store, in
// which everything that can go wrong does, at moments that a seed decides. The package
// has only tests, and nothing imports it.
//
// A life is one Pod, sometimes followed by a second one of its name. One number
// determines its spec, what its containers do, what users do to it, which calls fail
// and when the process dies. During the life and at its end, rules are checked
// (rules_test.go): what users of Kubernetes may rely on, from the documentation of the
// Pod lifecycle, compared with what really happened in the simulated world and not with
// what the kubelet reports.
//
// A life that breaks a rule prints its diary and the command that repeats it:
//
//	go test ./kubelet/simulation -run TestOneLife -seed 4711
//
// Every decision has its own stream of random numbers, named after its subject, so the
// order in which goroutines happen to run does not matter, and a change in one place of
// the simulation leaves most of a life unchanged. The seeds of lives that once broke a
// rule are kept in TestSeeds.
//
// Mutants show that the rules can detect faults: they are kubelets with one deliberate
// fault each, which must be found within a few hundred lives.
package simulation
