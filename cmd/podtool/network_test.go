package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serving runs o on a port of its own until the test ends.
func serving(t *testing.T, o serveOptions) (url string, done chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done = make(chan error, 1)
	go func() { done <- o.serve(ctx, l, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("serve did not end with its context")
		}
	})
	return "http://" + l.Addr().String(), done
}

func TestServeEndsAfterRequests(t *testing.T) {
	url, done := serving(t, serveOptions{text: "hi", requests: 3})
	var stdout, stderr bytes.Buffer
	if code := run([]string{"get", url + "/healthz"}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if code := run([]string{"get", "--count", "3", strings.TrimPrefix(url, "http://")}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if got, want := stdout.String(), "ok\nhi\nhi\nhi\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
		done <- nil
	case <-time.After(5 * time.Second):
		t.Error("the server runs on after three requests")
	}
}

func TestServeUDP(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serveOptions{text: "hi"}.serveUDP(ctx, c) }()
	conn, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		if _, err := conn.Write([]byte("a question of many bytes")); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != "hi\n" {
			t.Fatalf("the answer is %q, %v", buf[:n], err)
		}
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, exitCode(0)) {
			t.Errorf("it ends with %v, want success", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it goes on when it is told to end")
	}
}

func TestServeBecomesReady(t *testing.T) {
	early, _ := serving(t, serveOptions{text: "hi", readyAfter: time.Hour})
	resp, err := http.Get(early + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before it is ready /healthz answers %s", resp.Status)
	}
	url, _ := serving(t, serveOptions{text: "hi", readyAfter: 300 * time.Millisecond})
	var stdout, stderr bytes.Buffer
	if code := run([]string{"get", url + "/none"}, nil, &stdout, &stderr); code != 1 || !strings.Contains(stderr.String(), "404") {
		t.Errorf("a path that is not there: exit code %d, %q", code, stderr.String())
	}
	if code := run([]string{"get", "--retry", "5s", url + "/healthz"}, nil, &stdout, &stderr); code != 0 || stdout.String() != "ok\n" {
		t.Errorf("get --retry: exit code %d, %q", code, stdout.String())
	}
}
