package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// keyError is an error about the value at a path of keys and indexes.
type keyError struct {
	path []any
	err  error
}

func (k *keyError) Error() string { return k.err.Error() }
func (k *keyError) Unwrap() error { return k.err }

// atKey says where in its document an error is. If the error already has a path, the
// new path is prepended.
func atKey(err error, path ...any) error {
	if inner, ok := errors.AsType[*keyError](err); ok {
		return &keyError{append(path, inner.path...), inner.err}
	}
	return &keyError{path, err}
}

// placed is an error with the file that it is about and, if known, the line.
type placed struct {
	file string
	line int // 0 if unknown
	err  error
}

func (p *placed) Error() string {
	if p.line == 0 {
		return fmt.Sprintf("%q: %v", p.file, p.err)
	}
	return fmt.Sprintf("%q line %d: %v", p.file, p.line, p.err)
}

func (p *placed) Unwrap() error { return p.err }

// place says where in the file an error of its content is. An error that already
// names another file is returned unchanged.
func place(file string, content []byte, err error) error {
	if _, ok := errors.AsType[*placed](err); ok || err == nil {
		return err
	}
	offset := int64(-1)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = e.Offset
	} else if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = e.Offset
	} else if e, ok := errors.AsType[*keyError](err); ok {
		offset = offsetOf(json.NewDecoder(bytes.NewReader(content)), e.path)
	}
	if offset < 0 || offset > int64(len(content)) {
		return &placed{file, 0, err}
	}
	return &placed{file, 1 + bytes.Count(content[:offset], []byte("\n")), err}
}

// offsetOf returns the offset just behind the first token of the value at the path,
// where it leaves the decoder. If the document lacks the path, it returns that of the
// deepest part that exists, or -1.
func offsetOf(dec *json.Decoder, path []any) int64 {
	if len(path) == 0 {
		if _, err := dec.Token(); err != nil {
			return -1
		}
		return dec.InputOffset()
	}
	open, err := dec.Token()
	if err != nil {
		return -1
	}
	start := dec.InputOffset()
	for i := 0; dec.More(); i++ {
		at := any(i)
		if open == json.Delim('{') {
			if at, err = dec.Token(); err != nil {
				return start
			}
		}
		if at == path[0] {
			return offsetOf(dec, path[1:])
		}
		var skipped json.RawMessage
		if dec.Decode(&skipped) != nil {
			return start
		}
	}
	return start
}
