package store

import (
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit-project/nodekit/kubelet/object"
)

// TestLazyChangesStayWithinWhatIsReserved has changes that are written to memory
// faster than the disk sets resourceVersions aside, as when it is full.
func TestLazyChangesStayWithinWhatIsReserved(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "objects.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := object.KindOf(&v1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	write := func() error {
		_, err := s.Write(kind, "ns", "p", func(Object) (Object, error) {
			return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}, nil
		}, WriteOptions{Lazy: true})
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	s.write.Lock()
	s.reserved = s.next() + 2
	s.write.Unlock()
	for range 4 {
		if err := write(); err != nil {
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
	if err := write(); err == nil {
		t.Error("a change was taken that cannot be written")
	}
}
