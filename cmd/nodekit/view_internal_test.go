package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

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
