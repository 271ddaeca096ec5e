package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Error codes of the specification (CNI 1.1.0, Error). Code 3 tells the runtime
// that no DEL is needed, so no fault kind maps to it: a handler must return it
// explicitly.
const (
	CodeVersion           uint = 1 // the version is not supported
	CodeUnsupportedField  uint = 2 // the message names the key and its value
	CodeUnknownContainer  uint = 3 // the runtime need not clean up
	CodeEnvironment       uint = 4 // the message names the variables
	CodeIO                uint = 5
	CodeDecode            uint = 6
	CodeConfig            uint = 7
	CodeTryAgain          uint = 11
	CodeUnavailable       uint = 50 // STATUS: ADD cannot be served
	CodeLimitedConnection uint = 51 // STATUS: and existing containers may have limited connectivity
)

// Error codes of the SDK. The specification leaves codes from 100 on to plugins.
const (
	CodeInternal      uint = 100
	CodeExhausted     uint = 101 // nothing left to allocate
	CodeExists        uint = 102 // something that ADD would create already exists
	CodeNotAsExpected uint = 103 // CHECK found something missing or changed
	CodePanic         uint = 104
	CodeDelegate      uint = 105 // a delegate could not be run or understood
)

// Error is the error object of the specification. Handlers may return one, also
// wrapped; Invoke, Repair and Exec return one for every failure of a plugin.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

// Errorf returns an error that is reported with the given code (see CodeOf). The
// format, including %w, works as in fmt.Errorf.
func Errorf(code uint, format string, args ...any) error {
	return &coded{code: code, err: fmt.Errorf(format, args...)}
}

// Error returns the message and the details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Is lets errors.Is match by fault kind: code 11 is fault.Unavailable, codes 4 and 7
// are fault.Invalid, and so on.
func (e *Error) Is(target error) bool {
	kind, ok := target.(fault.Kind)
	return ok && kindOf(e.Code) == kind
}

func kindOf(code uint) fault.Kind {
	switch code {
	case CodeUnsupportedField, CodeEnvironment, CodeDecode, CodeConfig:
		return fault.Invalid
	case CodeVersion:
		return fault.Unimplemented
	case CodeUnknownContainer:
		return fault.NotFound
	case CodeTryAgain, CodeUnavailable, CodeLimitedConnection:
		return fault.Unavailable
	case CodeExhausted:
		return fault.Exhausted
	case CodeExists:
		return fault.AlreadyExists
	}
	return fault.Internal
}

type coded struct {
	code uint
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// CodeOf returns the code for err in an error object: the code of an *Error, of an
// error made by Errorf or of a *types.Error of containernetworking/cni; else
// CodeTryAgain for a context error; else the code for its fault kind, or CodeInternal.
func CodeOf(err error) uint {
	var e *Error
	var c *coded
	var theirs *types.Error
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &e):
		return e.Code
	case errors.As(err, &theirs):
		return theirs.Code
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return CodeTryAgain
	}
	switch fault.Of(err) {
	case fault.Invalid, fault.OutOfRange:
		return CodeConfig
	case fault.Unavailable, fault.Aborted:
		return CodeTryAgain
	case fault.Exhausted:
		return CodeExhausted
	case fault.AlreadyExists:
		return CodeExists
	}
	return CodeInternal
}

// TypesError converts err to a containernetworking/cni error, with the code from
// CodeOf. It is for plugins served by that project's skel package, which reports any
// other error with code 999. TypesError(nil) is nil.
func TypesError(err error) *types.Error {
	if err == nil {
		return nil
	}
	e := object(err, "", "")
	return types.NewError(e.Code, e.Msg, e.Details)
}

// object builds the error object in the version of the request. STATUS has codes of
// its own: code 11 and the codes of plugins become "not available" there.
func object(err error, command, version string) *Error {
	code := CodeOf(err)
	if command == CmdStatus && (code >= CodeInternal || code == CodeTryAgain) {
		code = CodeUnavailable
	}
	if version == "" {
		version = Newest
	}
	out := &Error{CNIVersion: version, Code: code, Msg: err.Error()}
	var e *Error
	if errors.As(err, &e) && err.Error() == e.Error() {
		out.Msg, out.Details = e.Msg, e.Details
	}
	return out
}

// decodeError decodes the error object that a failed plugin wrote to stdout.
func decodeError(stdout []byte) (*Error, bool) {
	var e Error
	if err := json.Unmarshal(stdout, &e); err != nil || e.Msg == "" && e.Code == 0 {
		return nil, false
	}
	return &e, true
}
