package table_test

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/api/table"
	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestEveryKind has an empty object of each kind: its row fills the columns.
func TestEveryKind(t *testing.T) {
	for _, k := range object.Kinds() {
		o := k.New()
		o.SetName("x")
		got := table.Of(k, []object.Object{o}, time.Now(), "")
		if cells := got.Rows[0].Cells; len(cells) != len(got.ColumnDefinitions) {
			t.Errorf("%s: %d cells in %d columns", k.Kind, len(cells), len(got.ColumnDefinitions))
		}
		for i, c := range got.ColumnDefinitions {
			if c.Name == "Name" && got.Rows[0].Cells[i] != "x" {
				t.Errorf("%s: the name is %v", k.Kind, got.Rows[0].Cells[i])
			}
		}
	}
}

func TestPods(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ended := func(reason string, code int32) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reason, ExitCode: code}}
	}
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	waiting := func(reason string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	for want, status := range map[string]v1.PodStatus{
		"[0/1 Pending 0 90s]":          {Phase: v1.PodPending},
		"[0/1 Evicted 0 90s]":          {Phase: v1.PodFailed, Reason: "Evicted"},
		"[1/1 Running 0 90s]":          {Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{Ready: true, State: running}}},
		"[0/1 CrashLoopBackOff 3 90s]": {Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{RestartCount: 3, State: waiting("CrashLoopBackOff")}}},
		"[0/1 ExitCode:7 0 90s]":       {Phase: v1.PodFailed, ContainerStatuses: []v1.ContainerStatus{{State: ended("", 7)}}},
		"[0/1 Completed 0 90s]":        {Phase: v1.PodSucceeded, ContainerStatuses: []v1.ContainerStatus{{State: ended("Completed", 0)}}},
		"[0/1 Init:Error 0 90s]":       {Phase: v1.PodPending, InitContainerStatuses: []v1.ContainerStatus{{State: ended("Error", 1)}}},
		"[0/1 Init:0/1 0 90s]":         {Phase: v1.PodPending, InitContainerStatuses: []v1.ContainerStatus{{State: running}}},
	} {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Second))}, Status: status}
		p.Spec.Containers, p.Spec.InitContainers = []v1.Container{{Name: "c"}}, []v1.Container{{Name: "i"}}
		k, err := object.KindOf(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(table.Of(k, []object.Object{p}, now, metav1.IncludeNone).Rows[0].Cells[1:5]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		p.DeletionTimestamp = &metav1.Time{Time: now}
		over := status.Phase == v1.PodFailed || status.Phase == v1.PodSucceeded
		if got := table.Of(k, []object.Object{p}, now, "").Rows[0].Cells[2]; (got == "Terminating") == over {
			t.Errorf("%s that ends is %v", want, got)
		}
	}
}
