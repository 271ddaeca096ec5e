package keeper

import (
	"net"
	"sync"
	"time"
)

// idle holds connections for reuse by later calls. The zero value is ready.
type idle struct {
	mu    sync.Mutex
	conns []*net.UnixConn
	end   *time.Timer
}

const (
	// maxIdle is for a burst of calls; each connection costs the keeper a goroutine.
	maxIdle = 8
	// idleTime is how long a connection waits for the next call.
	idleTime = 100 * time.Millisecond
)

// take returns a connection, or nil.
func (i *idle) take() *net.UnixConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.conns) - 1
	if last < 0 {
		return nil
	}
	conn := i.conns[last]
	i.conns = i.conns[:last]
	return conn
}

// put keeps a connection for a while, or closes it.
func (i *idle) put(conn *net.UnixConn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.conns) == maxIdle {
		_ = conn.Close() // everything was read
		return
	}
	i.conns = append(i.conns, conn)
	if i.end == nil {
		i.end = time.AfterFunc(idleTime, i.close)
	} else {
		i.end.Reset(idleTime)
	}
}

// close closes all idle connections.
func (i *idle) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, conn := range i.conns {
		_ = conn.Close() // everything was read
	}
	i.conns = nil
}
