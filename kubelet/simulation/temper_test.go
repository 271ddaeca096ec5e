package simulation_test

import "time"

// temper is how rough a life is: the probabilities of what goes wrong. They hold
// until the life's quiet time; from then on everything works, and the Pod must
// come into order.
type temper struct {
	name string
	// Of one call: it fails without effect, fails although it had its effect, is
	// never answered, or is the moment at which the process dies.
	failBefore, failAfter, hang, die float64
	// deaths is the most process deaths by calls.
	deaths int
	// Of the runtime: it goes on with calls that nobody waits for any more, loses
	// events, refuses a second container of one name and attempt, records a failed
	// start as an exit.
	goesOn, losesEvent         float64
	noEvents, strict, recorded bool
	// startFails is the probability that a container cannot be started, waits that a
	// volume is not there yet.
	startFails, waits float64
	// events is the most random events of the script, over span.
	events int
	span   time.Duration
	// meddles: what belongs to the kubelet is ended or removed by others. reboots:
	// the machine may start again.
	meddles, reboots bool
}

// newTemper returns one of the kinds of lives.
func newTemper(d *dice) temper {
	t := temper{
		noEvents: d.chance("temper no events", 0.1), strict: d.chance("temper strict", 0.5), recorded: d.chance("temper recorded", 0.7),
		goesOn: pick(d, "temper goes on", 0, 0.5, 1), losesEvent: pick(d, "temper loses", 0, 0, 0.3),
		span: d.spread("temper span", 3*time.Second, 5*time.Minute), events: 2,
	}
	switch d.upTo("temper", 5) {
	case 0:
		t.name = "calm"
		t.losesEvent = 0
	case 1:
		t.name, t.failBefore, t.failAfter, t.hang = "failing", 0.06, 0.04, 0.01
		t.startFails, t.waits = 0.1, 0.2
	case 2:
		t.name, t.die, t.deaths, t.events = "dying", 0.08, 5, 3
	case 3:
		t.name, t.meddles, t.events = "meddled with", true, 6
		t.startFails = 0.05
	case 4:
		t.name, t.failBefore, t.failAfter, t.hang = "everything", 0.03, 0.03, 0.005
		t.die, t.deaths, t.meddles, t.reboots, t.events = 0.03, 3, true, true, 6
		t.startFails, t.waits = 0.05, 0.1
	}
	if t.noEvents {
		t.span = min(t.span, time.Minute) // a runtime without events is listed every second
	} else if d.chance("temper long", 0.05) {
		t.span *= 8 // longer than what resets a back-off
	}
	return t
}

// fate is what becomes of a call.
type fate int

const (
	works      fate = iota
	failsFirst      // fails without effect
	failsLater      // fails after it had its effect
	hangs           // is never answered
	diesFirst       // the process dies before the effect, which may come all the same
	diesLater       // the process dies when the effect is there
)

// fate draws that of a call.
func (l *life) fate(key string, reads bool) fate {
	t := &l.temper
	if l.quiet.Load() {
		return works
	}
	x := l.dice.fraction("fate " + key)
	if reads {
		x *= 4 // there are many
	}
	for _, next := range []struct {
		p    float64
		fate fate
	}{{t.failBefore, failsFirst}, {t.failAfter, failsLater}, {t.hang, hangs}, {t.die / 2, diesFirst}, {t.die / 2, diesLater}} {
		if x < next.p {
			return next.fate
		}
		x -= next.p
	}
	return works
}
