package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/nodekit-project/nodekit/internal/decompress"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// source gives access to the files of an archive or a directory, by slash-separated
// names.
type source interface {
	// open returns a file and its size. If the name does not exist, the error is
	// fault.NotFound.
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// maxDocument bounds how much of an archive's own JSON is read into memory.
const maxDocument = 8 << 20

func readDocument(src source, name string) ([]byte, error) {
	f, size, err := src.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxDocument {
		return nil, fault.Invalid.Errorf("%q has %d bytes, too many for a description of an image", name, size)
	}
	return io.ReadAll(f)
}

// openSource opens an archive, compressed or not, or a directory. A compressed archive is
// decompressed into scratch; the file there is unlinked at once.
func openSource(from, scratch string, limit int64) (source, error) {
	fi, err := os.Stat(from)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		root, err := os.OpenRoot(from)
		if err != nil {
			return nil, err
		}
		return dirSource{root}, nil
	}
	if !fi.Mode().IsRegular() { // opening a named pipe waits for a writer, and nothing interrupts that
		return nil, fault.Invalid.Errorf("it is no file: an archive is read here and there, write it to a file first")
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	if f, err = plainFile(f, scratch, limit); err != nil {
		return nil, err
	}
	src, err := indexTar(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return src, nil
}

// plainFile returns f if it is not compressed; otherwise it returns the decompressed file
// and closes f.
func plainFile(f *os.File, scratch string, limit int64) (*os.File, error) {
	packed, err := compressed(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !packed {
		return f, nil
	}
	defer f.Close()
	plain, err := decompress.Reader(f)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	tmp, err := os.CreateTemp(scratch, "archive.*")
	if err != nil {
		return nil, err
	}
	copied, err := io.Copy(tmp, io.LimitReader(plain, limit+1))
	if err == nil && copied > limit {
		err = fault.Invalid.Errorf("it is longer than %d bytes", limit)
	}
	if err = errors.Join(err, os.Remove(tmp.Name())); err != nil {
		return nil, errors.Join(fmt.Errorf("decompressing: %w", err), tmp.Close())
	}
	return tmp, nil
}

// compressed reports whether the file begins as a compressed one does.
func compressed(f *os.File) (bool, error) {
	var magic [4]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return decompress.Kind(magic[:n]) != "", nil
}

// dirSource cannot be led out of its directory, not even by symbolic links.
type dirSource struct{ root *os.Root }

func (d dirSource) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fault.NotFound.Wrap(err)
	}
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, 0, errors.Join(fault.Invalid.Errorf("%q is not a regular file", name), err, f.Close())
	}
	return f, fi.Size(), nil
}

func (d dirSource) Close() error { return d.root.Close() }

// tarSource reads the members of a tar file in place.
type tarSource struct {
	file    *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // the target of a symbolic or hard link
}

// unread returns the name of the file's compression if it is one that is not supported.
func unread(f *os.File) string {
	var magic [8]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "" // reading the archive has already reported it
	}
	return decompress.Unread(magic[:n])
}

func indexTar(f *os.File) (*tarSource, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	src := &tarSource{file: f, members: map[string]member{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return src, nil
		}
		if err != nil {
			if name := unread(f); name != "" {
				return nil, fault.Invalid.Errorf("it is compressed with %s, and only gzip and zstd are read: unpack it first", name)
			}
			return nil, fault.Invalid.Errorf("not a tar archive: %w", err)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			src.members[name] = member{offset: at, size: h.Size}
		case tar.TypeSymlink:
			src.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			src.members[name] = member{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
}

func (t *tarSource) open(name string) (io.ReadCloser, int64, error) {
	m, ok := t.members[path.Clean(name)]
	if ok && m.link != "" { // old docker archives use links for layers that images share
		m, ok = t.members[strings.TrimPrefix(m.link, "/")]
	}
	if !ok || m.link != "" {
		return nil, 0, fault.NotFound.Errorf("the archive has no file %q", name)
	}
	return io.NopCloser(io.NewSectionReader(t.file, m.offset, m.size)), m.size, nil
}

func (t *tarSource) Close() error { return t.file.Close() }

// sniff returns how a file of the source is compressed.
func sniff(src source, name string) (string, error) {
	f, _, err := src.open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var magic bytes.Buffer
	if _, err := io.CopyN(&magic, f, 4); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return decompress.Kind(magic.Bytes()), nil
}
