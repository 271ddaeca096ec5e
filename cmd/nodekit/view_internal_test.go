package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/kubelet/pod"
)

// TestViewOfFailures shows what a Pod looks like whose sandbox is tried again and
// again: each reason once, on one line, whatever id a try has.
func TestViewOfFailures(t *testing.T) {
	var out strings.Builder
	v := newView(&out, 1, t.FailNow)
	p := call.Pod{Name: "p"}
	for i := range 3 {
		err := fmt.Errorf("attaching \"%064x/eth0\": code 11: later", i)
		v.step(pod.Step{Pod: p, What: pod.StepSandbox, Err: err})
		v.step(pod.Step{Pod: p, What: pod.StepWait, Name: "main", Err: fmt.Errorf("waiting: %w", err)})
	}
	v.step(pod.Step{Pod: p, What: pod.StepWait, Name: "main", Err: errors.Join(errors.New("one"), errors.New("two"))})
	v.said("mine", "hello")
	want := "           wait       main  waiting: attaching \"000000000000/eth0\": code 11: later\n" +
		"           wait       main  one; two\n" +
		"           mine | hello\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestViewOfACallThatHangs: whose it is, and how long it may go on. What takes as long as
// the Pod's processes do is no fault of a plugin.
func TestViewOfACallThatHangs(t *testing.T) {
	var out strings.Builder
	v := newView(&out, 1, t.FailNow)
	p := call.Pod{Name: "p", UID: "u"}
	for _, c := range []call.Call{
		{Pod: p, Family: "cni", Plugin: "mine", Method: "ADD", Limit: time.Minute},
		{Pod: p, Family: "cni", Plugin: "mine", Method: "ADD", Limit: time.Minute - time.Millisecond}, // the next try
		{Pod: p, Family: "cri", Plugin: "/run/cri.sock", Method: "StopContainer"},
		{Pod: p, Family: "cri", Plugin: "/run/cri.sock", Method: "PullImage"},
		{Family: "csi", Plugin: "my.csi", Method: "NodeGetInfo", Limit: 2*time.Minute - time.Millisecond},
	} {
		c.Took = 5 * time.Second
		v.waits(t.Context(), c)
	}
	want := "   5.00 s  wait       p  no answer yet to ADD of CNI plugin mine, which may take 1m0s\n" +
		"   5.00 s  wait       p  no answer yet to PullImage of the runtime, which may take any time\n" +
		"   5.00 s  wait       node  no answer yet to NodeGetInfo of CSI driver my.csi, which may take 2m0s\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
