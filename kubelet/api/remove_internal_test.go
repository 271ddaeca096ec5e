package api

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestGraceAndAClockThatIsSet has the clock set between two deletions of a Pod:
// the shorter grace counts and the longer does not, whatever the clock says.
func TestGraceAndAClockThatIsSet(t *testing.T) {
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	own := int64(300)
	for name, c := range map[string]struct {
		step        time.Duration
		asked, want int64
	}{
		"forward, less": {time.Hour, 5, 5},
		"forward, none": {time.Hour, 0, 0},
		"forward, more": {time.Hour, 400, 300},
		"back, less":    {-time.Hour, 5, 5},
		"back, more":    {-time.Hour, 400, 300},
		"back, as much": {-time.Hour, 300, 300},
	} {
		p := ending(&v1.Pod{Spec: v1.PodSpec{TerminationGracePeriodSeconds: &own}}, &metav1.DeleteOptions{}, begun)
		p = ending(p, &metav1.DeleteOptions{GracePeriodSeconds: &c.asked}, begun.Add(c.step))
		over := begun.Add(time.Duration(c.want) * time.Second)
		if got := *p.GetDeletionGracePeriodSeconds(); got != c.want || !p.GetDeletionTimestamp().Time.Equal(over) {
			t.Errorf("%s: %d s, until %s; want %d s, until %s", name, got, p.GetDeletionTimestamp(), c.want, over)
		}
	}
}
