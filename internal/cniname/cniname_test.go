package cniname_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/cniname"
)

func TestValid(t *testing.T) {
	for _, good := range []string{"a", "Z", "0", "a-b_c.d", "0123456789abcdef", "x..", "x-"} {
		if !cniname.Valid(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "a\x00", "aé", "@"} {
		if cniname.Valid(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestInterfaceName(t *testing.T) {
	for _, good := range []string{"a", "eth0", "eth0.100", "-", "veth_1@x", "fifteen-bytes-x", "ü"} {
		if err := cniname.InterfaceName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "sixteen-bytes-xy", "a/b", "a:1", "eth%d", "%", "a b", "a\n", "a\x00"} {
		if err := cniname.InterfaceName(bad); err == nil || !strings.HasPrefix(err.Error(), strconv.Quote(bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
