// Package simulation runs Pods' lives in virtual time: the real parts of the
// kubelet (worker, plan, status, observer, probes) over a simulated runtime, host
// and object store, in which everything that may go wrong does, at moments that a
// seed decides. It has tests only, and nothing imports it.
//
// A life is one Pod, sometimes a second of its name. Its spec, what its
// containers do, what users do to it, which calls fail and when the process dies
// all follow from one number. While it goes on and at its end it is held to rules
// (rules_test.go): what a user of Kubernetes may rely on, from the Pod lifecycle's
// documentation, checked against what truly happened in the simulated world and
// not against what the kubelet says of it.
//
// A life that breaks a rule prints its diary and the command that repeats it:
//
//	go test ./kubelet/simulation -run TestOneLife -seed 4711
//
// Every decision has a stream of numbers of its own, named after what it is
// about, so the order in which goroutines happen to run does not matter, and a
// change in one place of the simulation leaves most of a life as it was. The seeds
// of lives that once broke a rule stay, in TestSeeds.
//
// That the rules can be broken at all is shown by mutants: kubelets with one
// deliberate fault, each of which must be found out within a few hundred lives.
package simulation
