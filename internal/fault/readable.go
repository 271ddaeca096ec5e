package fault

import "errors"

// Readable returns the error of an author's function, and another one in its place where
// its methods panic, as those of a nil pointer that was returned as an error mostly do: who
// receives it may look at it then without care. The function is named by what.
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
