package client_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nodekit-project/nodekit/csi/client"
)

func TestUncertain(t *testing.T) {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		want := false
		switch code {
		case codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Unavailable:
			want = true
		}
		if got := client.Uncertain(status.Error(code, "")); got != want {
			t.Errorf("%s: %t", code, got)
		}
	}
	if !client.Uncertain(errors.New("the wire broke")) || client.Uncertain(nil) {
		t.Error("errors that are no answer")
	}
}
