package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/nodekit-project/nodekit/cri/oci/image/content"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const (
	errReset = syscall.ECONNRESET
	errPipe  = syscall.EPIPE
)

// errStalled is the cause of a context that ended because a server sent nothing.
var errStalled = errors.New("it sends nothing")

// because replaces err if the reason for it was that the server sent nothing.
func because(ctx context.Context, e *endpoint, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fault.Unavailable.Errorf("%s has sent nothing for %v", e.place, e.timeout)
	}
	return err
}

// layer returns a blob that is fetched when it is opened.
func (p *places) layer(ctx context.Context, d v1.Descriptor) content.Blob {
	l := &layer{ctx: ctx, all: p, from: p, blob: d, wrong: map[*endpoint]bool{}}
	return content.Blob{Digest: d.Digest, Size: d.Size, Resume: l.resume, Elsewhere: l.elsewhere, Open: func() (io.ReadCloser, error) {
		r, _, err := l.resume(0)
		return r, err
	}}
}

// layer is the state of a pull about the sources of one blob. It is used by one goroutine
// at a time.
type layer struct {
	ctx   context.Context
	all   *places
	from  *places // the places to ask now: all, or a single one
	blob  v1.Descriptor
	last  *blobReader
	wrong map[*endpoint]bool // places that, on their own, served something else
}

// resume is the Resume of a content.Blob.
func (l *layer) resume(from int64) (io.ReadCloser, int64, error) {
	r := &blobReader{ctx: l.ctx, places: l.from, digest: l.blob.Digest, total: l.blob.Size, at: from}
	l.last = r
	at, err := r.connect()
	if err != nil {
		return nil, 0, err
	}
	r.at = at
	r.tell()
	return r, at, nil
}

// elsewhere is the Elsewhere of a content.Blob. If several places served a part each, it
// is unknown which one was wrong; each is asked again on its own.
func (l *layer) elsewhere() bool {
	if l.last != nil && len(l.last.used) == 1 {
		e := l.last.used[0]
		l.wrong[e] = true
		e.down.Store(true)
	}
	for _, e := range l.all.all {
		if !l.wrong[e] && canPull(e.host) {
			l.from = l.all.alone(e)
			l.wrong[e] = true // asked only once, whatever the result
			return true
		}
	}
	return false
}

// alone returns these places reduced to one of them.
func (p *places) alone(e *endpoint) *places {
	return &places{ref: p.ref, opts: p.opts, all: []*endpoint{e}}
}

// small reads a blob that is kept in memory. If a place serves something else, the next
// one is tried.
func (p *places) small(ctx context.Context, b content.Blob) (raw []byte, err error) {
	if b.Size > maxConfig || b.Size < 0 {
		return nil, fault.Invalid.Errorf("config %q is announced with %d bytes, too many for a description of an image", b.Digest, b.Size)
	}
	err = p.try(ctx, canPull, func(e *endpoint) (err error) {
		from := p.alone(e)
		from.impatient = true // because p waits
		r := &blobReader{ctx: ctx, places: from, digest: b.Digest, total: b.Size, quiet: true}
		raw, err = io.ReadAll(io.LimitReader(r, b.Size+1))
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if got := content.Bytes(raw).Digest; got != b.Digest {
			return fault.Invalid.Errorf("%s serves config %q with the digest %q: it is corrupt", e.place, b.Digest, got)
		}
		return nil
	})
	return raw, err
}

const (
	// progressStep is how many bytes pass between two reports.
	progressStep = 256 << 10
	// maxTries is how often in a row a connection may break without having delivered a
	// byte.
	maxTries = 5
)

// blobReader reads a blob. If the connection breaks or stalls, it reconnects and
// continues where it was, with another place if necessary.
type blobReader struct {
	ctx    context.Context
	places *places
	digest v1.Hash
	total  int64
	quiet  bool // reports no progress

	at, told int64 // bytes read, and reported
	skip     int64 // bytes to skip, from a server that starts over
	tries    int
	now      *connection // nil if there is none
	used     []*endpoint // the places that served a part
}

// connection is one response of a server.
type connection struct {
	body   io.ReadCloser
	status int
	span   string // its Content-Range
	length int64  // its Content-Length, -1 if it has none
	useful bool   // something new was read from it
	from   *endpoint
	ctx    context.Context
	cancel context.CancelCauseFunc
	silent *time.Timer
}

func (c *connection) close() error {
	c.silent.Stop()
	err := c.body.Close()
	c.cancel(nil)
	return err
}

// connect requests the blob from the reader's position on, and returns from which
// position it is served.
func (r *blobReader) connect() (at int64, err error) {
	err = r.places.try(r.ctx, canPull, func(e *endpoint) (err error) {
		r.now, at, err = e.blob(r.ctx, r.digest, r.at, r.total)
		if err == nil && !slices.Contains(r.used, e) {
			r.used = append(r.used, e)
		}
		return err
	})
	return at, err
}

// blob requests a blob from an offset on. A server that does not support this, or has
// something else there, serves all of it.
func (e *endpoint) blob(ctx context.Context, digest v1.Hash, from, total int64) (*connection, int64, error) {
	header := http.Header{}
	if from == 0 {
		c, err := e.ask(ctx, digest, header, http.StatusOK)
		return c, 0, err
	}
	header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	c, err := e.ask(ctx, digest, header, http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	switch {
	case err != nil:
		return nil, 0, err
	case c.status == http.StatusOK:
		return c, 0, nil
	case c.status == http.StatusPartialContent && isRange(c.span, from, total):
		return c, from, nil
	}
	if err := c.close(); err != nil {
		return nil, 0, e.explain(err)
	}
	return e.blob(ctx, digest, 0, total)
}

// ask opens a connection for a blob.
func (e *endpoint) ask(ctx context.Context, digest v1.Hash, header http.Header, want ...int) (*connection, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &connection{from: e, ctx: ctx, cancel: cancel}
	c.silent = time.AfterFunc(e.timeout, func() { cancel(errStalled) })
	resp, err := e.get(ctx, e.url("blobs", digest.String()), header, want...) //nolint:bodyclose // the connection closes it
	c.silent.Stop()
	if err != nil {
		err = because(ctx, e, e.explainBlob(err))
		cancel(nil)
		return nil, err
	}
	c.body, c.status, c.span, c.length = resp.Body, resp.StatusCode, resp.Header.Get("Content-Range"), resp.ContentLength
	return c, nil
}

func isRange(got string, from, total int64) bool {
	return got == fmt.Sprintf("bytes %d-%d/%d", from, total-1, total) || got == fmt.Sprintf("bytes %d-%d/*", from, total-1)
}

// Read implements io.Reader. If a server announced a length and sent that much, there is
// no more, even if the descriptor announced more; the caller notices that. If it
// announced none, the connection may have been cut.
func (r *blobReader) Read(b []byte) (int, error) {
	for {
		if r.now == nil {
			if err := r.again(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.receive(b)
		if n > 0 {
			r.tries, r.now.useful = 0, true
			r.at += int64(n)
			if r.at-r.told >= progressStep || r.at == r.total {
				r.tell()
			}
			return n, nil
		}
		if err == io.EOF { //nolint:errorlint // a connection that was cut is an error that wraps it
			if r.now.length >= 0 || r.at >= r.total {
				return 0, io.EOF
			}
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			if err := r.broken(err); err != nil {
				return 0, err
			}
		}
	}
}

// receive reads the next bytes, none while bytes are skipped.
func (r *blobReader) receive(b []byte) (int, error) {
	c := r.now
	c.silent.Reset(c.from.timeout)
	n, err := c.body.Read(b)
	c.silent.Stop() // the caller may take its time
	if n == 0 {
		return 0, because(c.ctx, c.from, err)
	}
	again := min(r.skip, int64(n))
	r.skip -= again
	return copy(b, b[again:n]), nil // an error is returned again by the next read
}

// again connects, for the first time or again. It returns nil without a connection if it
// failed but another attempt is worthwhile.
func (r *blobReader) again() error {
	at, err := r.connect()
	r.skip = r.at - at
	if err == nil || r.at == 0 || isBusy(err) || !errors.Is(err, fault.Unavailable) {
		return err // a busy place has been asked often enough
	}
	return r.wait(err)
}

// broken gives up a connection. It returns nil if another attempt is worthwhile, first
// with another place if this one delivered nothing new.
func (r *blobReader) broken(err error) error {
	err = r.now.from.explainBroken(err)
	if !r.now.useful {
		r.now.from.down.Store(true)
	}
	_ = r.now.close() // the reason is known already
	r.now = nil
	return r.wait(err)
}

// wait pauses before the next attempt, longer each time. If no attempt is left, it
// returns err.
func (r *blobReader) wait(err error) error {
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	r.tries++
	if r.tries == maxTries {
		return fmt.Errorf("after %d of %d bytes, in %d tries: %w", r.at, r.total, maxTries, err)
	}
	r.places.opts.Logger.Info("a layer is asked for again", "layer", r.digest, "done", r.at, "of", r.total, "err", err)
	select {
	case <-time.After(pause << (2 * r.tries)):
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// pause is a quarter of the wait before the second attempt; each wait is four times the
// previous one.
const pause = 25 * time.Millisecond

// Close ends the connection.
func (r *blobReader) Close() error {
	if r.now == nil {
		return nil
	}
	c := r.now
	r.now = nil
	return c.close()
}

func (r *blobReader) tell() {
	r.told = r.at
	if report := r.places.opts.Progress; report != nil && !r.quiet {
		report(Progress{Layer: r.digest.String(), Done: r.at, Total: r.total})
	}
}
