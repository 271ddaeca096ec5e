package main

import (
	"errors"
	"testing"

	"github.com/nodekit-project/nodekit/internal/fault"
)

func TestHandlerFlags(t *testing.T) {
	f := handlerFlags{handlers: []string{"slow=/opt/a=b", "fast=crun"}}
	got, _, err := f.parse()
	if err != nil || len(got) != 2 || got["slow"] != "/opt/a=b" || got["fast"] != "crun" {
		t.Errorf("parsed %q, %v", got, err)
	}
	for _, bad := range [][]string{{"crun"}, {"=crun"}, {"a="}, {""}, {"a=b", "a=c"}} {
		f.handlers = bad
		if _, _, err := f.parse(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want %q", bad, err, fault.Invalid)
		}
	}
}
