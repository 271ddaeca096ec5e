package seccompbpf

import "slices"

// writer writes a program: the search for the architecture, a routine for each kind of
// architecture that searches for the number, and the tails, which are copied.
type writer struct {
	routines [][]span[end]
	out      []Instruction
	// The jumps in out that lead to a routine, and those to a tail, by their places.
	toRoutine, toTail map[int]int
}

// routine returns the number of the routine with these answers.
func (w *writer) routine(answers []span[end]) int {
	for i, have := range w.routines {
		if slices.Equal(have, answers) {
			return i
		}
	}
	w.routines = append(w.routines, answers)
	return len(w.routines) - 1
}

// assemble returns the program that chooses between the cases, with the tails of p.
func (w *writer) assemble(p []Instruction, cases []span[int]) []Instruction {
	w.toRoutine, w.toTail = map[int]int{}, map[int]int{}
	w.emit(Instruction{Code: loadWord, K: offsetArch})
	search(w, cases, func(routine int) {
		w.toRoutine[len(w.out)] = routine
		w.emit(Instruction{Code: jumpAlways})
	})
	begins := make([]int, len(w.routines))
	for i, answers := range w.routines {
		begins[i] = len(w.out)
		w.emit(Instruction{Code: loadWord, K: offsetNumber})
		search(w, answers, w.finish)
	}
	for at, routine := range w.toRoutine {
		w.out[at].K = uint32(begins[routine] - at - 1)
	}
	places := w.copyTails(p)
	for at, tail := range w.toTail {
		w.out[at].K = uint32(places[tail] - at - 1)
	}
	return w.out
}

func (w *writer) emit(in Instruction) { w.out = append(w.out, in) }

func (w *writer) finish(e end) {
	if e.tail == returns {
		w.emit(Instruction{Code: returnValue, K: e.value})
		return
	}
	w.toTail[len(w.out)] = e.tail
	w.emit(Instruction{Code: jumpAlways})
}

// search emits a bisection of the spans, with a single instruction for each value. The
// upper half follows the lower.
func search[T any](w *writer, spans []span[T], value func(T)) {
	if len(spans) == 1 {
		value(spans[0].value)
		return
	}
	lower, upper := spans[:len(spans)/2], spans[len(spans)/2:]
	atLeast := Instruction{Code: jumpAtLeast, K: upper[0].from}
	if skipped := length(len(lower)); skipped <= farthest {
		atLeast.Jt = uint8(skipped)
		w.emit(atLeast)
	} else {
		atLeast.Jf = 1
		w.emit(atLeast)
		w.emit(Instruction{Code: jumpAlways, K: uint32(skipped)})
	}
	search(w, lower, value)
	search(w, upper, value)
}

// farthest is how far a conditional jump can lead.
const farthest = 255

// length is that of the bisection of n spans.
func length(n int) int {
	if n == 1 {
		return 1
	}
	lower := length(n / 2)
	all := 1 + lower + length(n-n/2)
	if lower > farthest {
		all++
	}
	return all
}

// copyTails copies, in their order, the instructions of p that the tails can reach, and
// returns their places in the output. No jump of them gets longer.
func (w *writer) copyTails(p []Instruction) []int {
	reached := make([]bool, len(p))
	for _, tail := range w.toTail {
		reached[tail] = true
	}
	places := make([]int, len(p))
	next := len(w.out)
	for pc, in := range p {
		if !reached[pc] {
			continue
		}
		places[pc] = next
		next++
		for _, target := range targets(pc, in) {
			reached[target] = true
		}
	}
	for pc, in := range p {
		if !reached[pc] {
			continue
		}
		distance := func(jump int) int { return places[pc+1+jump] - places[pc] - 1 }
		switch {
		case in.Code == jumpAlways:
			in.K = uint32(distance(int(in.K)))
		case in.Code&7 == classJMP:
			in.Jt, in.Jf = uint8(distance(int(in.Jt))), uint8(distance(int(in.Jf)))
		}
		w.emit(in)
	}
	return places
}

// targets returns the instructions that may follow.
func targets(pc int, in Instruction) []int {
	switch {
	case in.Code == jumpAlways:
		return []int{pc + 1 + int(in.K)}
	case in.Code&7 == classJMP:
		return []int{pc + 1 + int(in.Jt), pc + 1 + int(in.Jf)}
	case in.Code&7 == classRET:
		return nil
	}
	return []int{pc + 1}
}
