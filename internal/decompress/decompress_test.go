package decompress_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/nodekit-project/nodekit/internal/decompress"
)

func TestReader(t *testing.T) {
	packed := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	}
	for _, text := range []string{"", "a", "some text that is long enough"} {
		streams := map[string][]byte{"": []byte(text)}
		for kind, writer := range packed {
			var out bytes.Buffer
			w := writer(&out)
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			streams[kind] = out.Bytes()
		}
		for kind, stream := range streams {
			if kind == "zstd" && text == "" {
				continue // an empty zstd stream has no frame
			}
			if got := decompress.Kind(stream); got != kind {
				t.Errorf("Kind of %q in %q: %q", text, kind, got)
			}
			r, err := decompress.Reader(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != text {
				t.Errorf("%q in %q reads as %q, %v", text, kind, got, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestUnread(t *testing.T) {
	for magic, want := range map[string]string{
		"\xfd7zXZ\x00\x00": "xz", "BZh91AY&SY": "bzip2", "\x04\x22\x4d\x18d": "lz4", "LZIP\x01": "lzip", "PK\x03\x04": "zip",
		"": "", "\xfd7z": "", "\x1f\x8b\x08": "", "etc/passwd": "",
	} {
		if got := decompress.Unread([]byte(magic)); got != want {
			t.Errorf("Unread(%q) = %q, want %q", magic, got, want)
		}
	}
}

func TestReaderDamaged(t *testing.T) {
	for _, stream := range []string{"\x1f\x8b", "\x1f\x8bnot gzip really", "\x28\xb5\x2f\xfdnot zstd really"} {
		r, err := decompress.Reader(bytes.NewReader([]byte(stream)))
		if err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("%q was read", stream)
		}
	}
}

// TestReaderOfFrames: a stream may have several frames, and one that holds no data first.
func TestReaderOfFrames(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00data"), z.EncodeAll([]byte("some "), nil)...)
	stream = append(stream, z.EncodeAll([]byte("text"), nil)...)
	r, err := decompress.Reader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "some text" {
		t.Errorf("it reads as %q, %v", got, err)
	}
}

// TestReaderKeepsLittle: a stream that wants much of it to be kept in memory is refused.
func TestReaderKeepsLittle(t *testing.T) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(256<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(make([]byte, 257<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := decompress.Reader(&out)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("%d bytes of it were read, %v", n, err)
	}
}
