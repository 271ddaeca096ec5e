package keeper_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/cri/oci/keeper/internal/wire"
)

// counts are of connections: how many there were, and how many there are.
type counts struct{ all, open atomic.Int32 }

// serve answers hello in a new directory, so many times on a connection, and counts
// connections.
func serve(t *testing.T, calls int) (dir string, conns *counts) {
	t.Helper()
	dir, conns = t.TempDir(), &counts{}
	l, err := wire.Listen(dir, wire.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			conns.all.Add(1)
			conns.open.Add(1)
			go func() {
				answer(conn, calls)
				conns.open.Add(-1)
			}()
		}
	}()
	return dir, conns
}

func answer(conn *net.UnixConn, calls int) {
	defer conn.Close()
	for range calls {
		var req wire.Request
		if _, err := wire.Receive(conn, &req); err != nil {
			return
		}
		if err := wire.Send(conn, wire.Reply{Hello: &wire.Hello{Protocol: wire.Protocol}}); err != nil {
			return
		}
	}
}

// Calls that follow each other share a connection, also with a keeper that hangs up
// after some, or after each, as earlier ones do. One that is of no more use is closed.
func TestCallsInTurn(t *testing.T) {
	for _, c := range []struct{ calls, want int32 }{{calls: 100, want: 1}, {calls: 1, want: 6}, {calls: 2, want: 3}} {
		var got int32
		for took := time.Hour; took > 50*time.Millisecond; { // calls that follow each other so slowly may have one each
			dir, conns := serve(t, int(c.calls))
			client, begun := keeper.NewClient(dir), time.Now()
			for range 6 {
				if _, err := client.Hello(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			got, took = conns.all.Load(), time.Since(begun)
		}
		if got != c.want {
			t.Errorf("6 calls to a keeper that answers %d on a connection took %d connections, want %d", c.calls, got, c.want)
		}
	}
	dir, conns := serve(t, 100)
	client := keeper.NewClient(dir)
	for range 2 {
		if _, err := client.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
		for late := time.Now().Add(10 * time.Second); conns.open.Load() > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal("a connection that nobody uses stays open")
			}
		}
	}
	if got := conns.all.Load(); got != 2 {
		t.Errorf("two calls, each of whose connections was closed, took %d connections, want 2", got)
	}
}
