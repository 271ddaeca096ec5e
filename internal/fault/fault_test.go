package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestKinds(t *testing.T) {
	missing := fault.NotFound.Errorf("volume %q: %w", "a", io.EOF)
	tests := []struct {
		name string
		err  error
		of   fault.Kind
		is   []error
		text string
	}{
		{"made", missing, fault.NotFound, []error{fault.NotFound, io.EOF}, `volume "a": EOF`},
		{"wrapped by others", fmt.Errorf("staging: %w", missing), fault.NotFound, []error{fault.NotFound, io.EOF}, `staging: volume "a": EOF`},
		{"given a second kind", fault.Aborted.Wrap(missing), fault.Aborted, []error{fault.Aborted, fault.NotFound}, `volume "a": EOF`},
		{"without a kind", io.EOF, fault.Internal, []error{io.EOF}, "EOF"},
		{"a bare kind", fault.Exhausted, fault.Exhausted, []error{fault.Exhausted}, "resource exhausted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := fault.Of(tt.err); got != tt.of {
				t.Errorf("Of = %q, want %q", got, tt.of)
			}
			for _, is := range tt.is {
				if !errors.Is(tt.err, is) {
					t.Errorf("is not %v", is)
				}
			}
			if tt.err.Error() != tt.text {
				t.Errorf("text %q, want %q", tt.err, tt.text)
			}
		})
	}
	if fault.NotFound.Wrap(nil) != nil || fault.Of(nil) != "" {
		t.Error("nil became an error")
	}
}
