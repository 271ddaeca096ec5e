// Package oldclient holds the test that clients made from earlier versions of
// cri-api (0.35 and 0.36) can use a runtime of the cri package for the whole
// life of a Pod. It is a module of its own, and links nothing of nodekit: that
// would raise cri-api to nodekit's version. go.mod has 0.36 and v035.mod 0.35,
// which make test uses in turn.
package oldclient
