package image

// Waiting is how many callers wait for pulls.
func (s *Store) Waiting() (n int) {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	for _, f := range s.pulls.byKey {
		n += f.waiting
	}
	return n
}
