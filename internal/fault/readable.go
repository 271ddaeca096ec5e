package fault

import "errors"

// Readable returns the error of an author's function or, if its methods panic,
// another error in its place: mostly a nil pointer was returned as an error. The
// receiver may then use the error safely. what names the function.
func Readable(what string, err error) (readable error) {
	if err == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			readable = Internal.Errorf("%s returned an error that cannot be read, a %T: %v: where there is no error return nil, not a pointer that is nil", what, err, v)
		}
	}()
	_ = err.Error()
	errors.Is(err, errNobodys) // goes through the whole chain
	return err
}

// errNobodys is in no chain.
var errNobodys = errors.New("nobody's")
