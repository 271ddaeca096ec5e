package redump_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/redump"
)

func TestList(t *testing.T) {
	broken := errors.New("broken")
	interrupted := fmt.Errorf("dump: %w", netlink.ErrDumpInterrupted)
	for name, tt := range map[string]struct {
		answers []error // the last one is repeated
		calls   int
		want    error
	}{
		"consistent":        {[]error{nil}, 1, nil},
		"twice interrupted": {[]error{interrupted, unix.EINTR, nil}, 3, nil},
		"another error":     {[]error{interrupted, broken}, 2, broken},
		"never consistent":  {[]error{interrupted}, 20, netlink.ErrDumpInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, err := redump.List(func() ([]int, error) {
				err := tt.answers[min(calls, len(tt.answers)-1)]
				calls++
				return []int{calls}, err
			})
			if !errors.Is(err, tt.want) || calls != tt.calls {
				t.Errorf("%d calls, error %v; want %d, %v", calls, err, tt.calls, tt.want)
			}
			if want := []int{tt.calls}; err == nil && !slices.Equal(got, want) || err != nil && got != nil {
				t.Errorf("got %v", got)
			}
		})
	}
}
