package nft

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// attr writes an attribute.
func attr(kind byte, value ...byte) []byte {
	b := append([]byte{byte(4 + len(value)), 0, kind, 0}, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// TestParseElements reads an element with all of its parts, and one whose comment
// is cut off.
func TestParseElements(t *testing.T) {
	value := func(b ...byte) []byte { return attr(unix.NFTA_DATA_VALUE, b...) }
	whole := slices.Concat(
		attr(unix.NFTA_SET_ELEM_KEY, value(1, 2, 3, 4)...), attr(keyEnd, value(1, 2, 3, 9)...),
		attr(unix.NFTA_SET_ELEM_DATA, value(5, 6)...), attr(unix.NFTA_SET_ELEM_USERDATA, comment("n/c/eth0")...))
	short := slices.Concat(attr(unix.NFTA_SET_ELEM_KEY, value(7)...), attr(unix.NFTA_SET_ELEM_USERDATA, 0, 9))
	list := attr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, slices.Concat(attr(unix.NFTA_LIST_ELEM, whole...), attr(unix.NFTA_LIST_ELEM, short...))...)
	want := []Element{
		{Set: "s", Key: []byte{1, 2, 3, 4}, KeyEnd: []byte{1, 2, 3, 9}, Value: []byte{5, 6}, Owner: "n/c/eth0"},
		{Set: "s", Key: []byte{7}},
	}
	if diff := cmp.Diff(want, parseElements("s", append(make([]byte, headerLen), list...))); diff != "" {
		t.Error(diff)
	}
}

// FuzzParse: no answer makes a parser panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(make([]byte, headerLen), attr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, attr(unix.NFTA_LIST_ELEM, attr(unix.NFTA_SET_ELEM_USERDATA, 0)...)...)...))
	f.Add(append(make([]byte, headerLen), attr(unix.NFTA_RULE_USERDATA, 0)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseElements("s", b)
		parseRule(b)
	})
}
