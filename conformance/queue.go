package conformance

import "sync"

// queue collects results in the order of their rules, and shows each as soon as it
// and all before it are known.
type queue struct {
	show func(Result)

	mu      sync.Mutex
	results []*Result
	shown   int
}

// put stores the result at an index; nil if there is none.
func (q *queue) put(i int, result *Result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.results[i] = result; q.shown < len(q.results) && q.results[q.shown] != nil; q.shown++ {
		q.show(*q.results[q.shown])
	}
}

// made returns the existing results, and shows those that waited for others.
func (q *queue) made() []Result {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := []Result{}
	for i, result := range q.results {
		if result == nil {
			continue
		}
		if i >= q.shown {
			q.show(*result)
		}
		out = append(out, *result)
	}
	return out
}
