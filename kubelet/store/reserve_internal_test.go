package store

import (
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestStatusesStayWithinWhatIsReserved has statuses that are written to memory
// faster than the disk sets resourceVersions aside, as when it is full.
func TestStatusesStayWithinWhatIsReserved(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "objects.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
	if err := s.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	s.write.Lock()
	s.reserved = s.next() + 2
	s.write.Unlock()
	name := types.NamespacedName{Namespace: "ns", Name: "p"}
	for range 4 {
		if err := s.SetStatus(t.Context(), name, "u", v1.PodStatus{Phase: v1.PodRunning}); err != nil {
			t.Fatal(err)
		}
		s.write.Lock()
		if s.next() > s.reserved {
			t.Errorf("the next resourceVersion is %d, and only those below %d are set aside", s.next(), s.reserved)
		}
		s.write.Unlock()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetStatus(t.Context(), name, "u", v1.PodStatus{Phase: v1.PodSucceeded}); err == nil {
		t.Error("a final status was taken that cannot be written")
	}
}
