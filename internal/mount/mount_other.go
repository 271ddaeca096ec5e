//go:build !linux

package mount

// Table returns ErrUnsupported.
func Table() ([]Mount, error) { return nil, ErrUnsupported }

// At returns ErrUnsupported.
func At(string) (*Mount, error) { return nil, ErrUnsupported }

// IsMountPoint returns ErrUnsupported.
func IsMountPoint(string) (bool, error) { return false, ErrUnsupported }

// Below returns ErrUnsupported.
func Below(string) ([]string, error) { return nil, ErrUnsupported }

// Bind returns ErrUnsupported.
func Bind(string, string, *BindOptions) error { return ErrUnsupported }

// IsBind returns ErrUnsupported.
func IsBind(string, string) (is, readOnly bool, err error) { return false, false, ErrUnsupported }

// Tmpfs returns ErrUnsupported.
func Tmpfs(string, *TmpfsOptions) error { return ErrUnsupported }

// Unmount returns ErrUnsupported.
func Unmount(string) error { return ErrUnsupported }

// Detach returns ErrUnsupported.
func Detach(string) error { return ErrUnsupported }

// DetachTree returns ErrUnsupported.
func DetachTree(string) error { return ErrUnsupported }

// RemoveAll returns ErrUnsupported.
func RemoveAll(string) error { return ErrUnsupported }

// Free returns ErrUnsupported.
func Free(string) error { return ErrUnsupported }

// MakeShared returns ErrUnsupported.
func MakeShared(string) error { return ErrUnsupported }

// UndoShared returns ErrUnsupported.
func UndoShared(string) error { return ErrUnsupported }
