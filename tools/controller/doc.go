// Package controller holds the test that a controller made with
// sigs.k8s.io/controller-runtime works on a node. It is a module of its own, so
// that no user of nodekit gets that dependency.
package controller
