// Package redump repeats netlink dumps. The kernel lists objects in several parts and
// lets changes happen in between; it then marks the list as inconsistent
// (NLM_F_DUMP_INTR, include/uapi/linux/netlink.h), and the netlink libraries return an
// error: entries may be missing, whoever made the change.
package redump

// tries is how often a dump is made at most: a machine on which 20 in a row are
// interrupted has no list that would still be true when it is read.
const tries = 20

// List calls get until its list is consistent, and returns that. Any other error of get
// is returned at once, and the last one if each list was inconsistent, both without a list.
func List[T any](get func() ([]T, error)) (all []T, err error) {
	err = Do(func() (err error) {
		all, err = get()
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Do is [List] for a dump that f evaluates itself; f must be able to begin again.
func Do(f func() error) (err error) {
	for range tries {
		if err = f(); !interrupted(err) {
			return err
		}
	}
	return err
}
