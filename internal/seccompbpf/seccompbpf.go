// Package seccompbpf rewrites seccomp programs (classic BPF on a struct seccomp_data,
// seccomp(2)) so that they answer the same in fewer steps.
//
// libseccomp, with which crun and runc compile a profile, compares a system call's
// number with those of the profile one after the other. The kernel runs such a program
// a thousand times when it is loaded, once for every number of each architecture, to
// find the calls that are always allowed (seccomp_cache_prepare), with interrupts
// disabled: half a millisecond for the default profile of containers.
package seccompbpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Instruction is a struct sock_filter (linux/filter.h).
type Instruction struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

const size = 8 // of an instruction, in bytes

// Decode reads a program in the machine's byte order, as seccomp(2) takes it. It returns
// ErrUnknown for what has another length than programs can have.
func Decode(data []byte) ([]Instruction, error) {
	if len(data)%size != 0 || len(data) > MaxLength*size {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrUnknown, len(data))
	}
	p := make([]Instruction, len(data)/size)
	_, err := binary.Decode(data, binary.NativeEndian, p)
	return p, err
}

// Encode returns the program as Decode reads it.
func Encode(p []Instruction) []byte {
	data, err := binary.Append(nil, binary.NativeEndian, p)
	if err != nil {
		panic(err) // for types of no fixed size
	}
	return data
}

// The parts of an instruction's code, from linux/bpf_common.h.
const (
	classLD  = 0x00
	classJMP = 0x05
	classRET = 0x06

	loadWord    = classLD | 0x20  // BPF_W, BPF_ABS
	jumpAlways  = classJMP        // BPF_JA; the others with BPF_K
	jumpEqual   = classJMP | 0x10 // BPF_JEQ
	jumpGreater = classJMP | 0x20 // BPF_JGT
	jumpAtLeast = classJMP | 0x30 // BPF_JGE
	returnValue = classRET        // BPF_K
)

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
)

// MaxLength is how many instructions a program may have (BPF_MAXINSNS).
const MaxLength = 4096

// ErrUnknown is the error for a program in another form than libseccomp's.
var ErrUnknown = errors.New("the program does something that is not understood")

// maxSteps bounds the time that Hasten takes, to a second. The default profile of
// containers has a twentieth of that.
const maxSteps = 1 << 28

// Hasten returns a program that returns the same as p for every system call of every
// architecture, but finds a call's number by bisection. What p does with the arguments
// of a call, it does as p does. It returns ErrUnknown if p computes with numbers, which
// libseccomp's programs do not do, or is no program that the kernel accepts.
func Hasten(p []Instruction) ([]Instruction, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	numbers, archs, err := compared(p)
	if err != nil {
		return nil, err
	}
	if len(p)*len(numbers)*len(archs) > maxSteps {
		return nil, fmt.Errorf("%w: it has %d numbers and %d architectures", ErrUnknown, len(numbers), len(archs))
	}
	var w writer
	var cases []span[int]
	for _, arch := range archs {
		var answers []span[end]
		for _, number := range numbers {
			e := walk(p, arch, number)
			if len(answers) == 0 || answers[len(answers)-1].value != e {
				answers = append(answers, span[end]{number, e})
			}
		}
		cases = append(cases, span[int]{arch, w.routine(answers)})
	}
	cases = slices.CompactFunc(cases, func(a, b span[int]) bool { return a.value == b.value })
	out := w.assemble(p, cases)
	if len(out) > MaxLength {
		return nil, fmt.Errorf("%w: %d instructions are needed", ErrUnknown, len(out))
	}
	return out, nil
}

// check accepts a program whose jumps all lead forward to an instruction of it, and that
// always ends in a return (bpf_check_classic in net/core/filter.c).
func check(p []Instruction) error {
	if len(p) == 0 || len(p) > MaxLength || p[len(p)-1].Code&7 != classRET {
		return fmt.Errorf("%w: it has no end", ErrUnknown)
	}
	for pc, in := range p {
		if in.Code&7 != classJMP {
			continue
		}
		far := max(uint64(in.Jt), uint64(in.Jf))
		if in.Code == jumpAlways {
			far = uint64(in.K)
		}
		if uint64(pc)+1+far >= uint64(len(p)) {
			return fmt.Errorf("%w: instruction %d jumps out of it", ErrUnknown, pc)
		}
	}
	return nil
}

// What an instruction may find in the accumulator, as a set.
const (
	holdsNumber = 1 << iota
	holdsArch
	holdsZero // nothing was loaded yet
)

// compared returns the numbers and architectures where the program's answer may change,
// in order: between two of them nothing is compared. Only what is executed before the
// first look at an argument counts. From there on the program is copied.
func compared(p []Instruction) (numbers, archs []uint32, err error) {
	numbers, archs = []uint32{0}, []uint32{0}
	holds := make([]uint8, len(p))
	holds[0] = holdsZero
	for pc, in := range p {
		if holds[pc] == 0 || looksAtArgument(in) {
			continue
		}
		switch in.Code {
		case loadWord:
			holds[pc+1] |= map[bool]uint8{true: holdsNumber, false: holdsArch}[in.K == offsetNumber]
		case jumpAlways:
			holds[pc+1+int(in.K)] |= holds[pc]
		case jumpEqual, jumpGreater, jumpAtLeast:
			holds[pc+1+int(in.Jt)] |= holds[pc]
			holds[pc+1+int(in.Jf)] |= holds[pc]
			if holds[pc]&holdsNumber != 0 {
				numbers = appendEdges(numbers, in.K)
			}
			if holds[pc]&holdsArch != 0 {
				archs = appendEdges(archs, in.K)
			}
		case returnValue:
		default:
			return nil, nil, fmt.Errorf("%w: instruction %d has code %#x", ErrUnknown, pc, in.Code)
		}
	}
	slices.Sort(numbers)
	slices.Sort(archs)
	return slices.Compact(numbers), slices.Compact(archs), nil
}

func appendEdges(edges []uint32, k uint32) []uint32 {
	if k < math.MaxUint32 {
		edges = append(edges, k+1)
	}
	return append(edges, k)
}

func looksAtArgument(in Instruction) bool {
	return in.Code == loadWord && in.K != offsetNumber && in.K != offsetArch
}

// end is where a program gets with a number and an architecture alone: to a value that it
// returns, or to the instruction that loads an argument. That overwrites the only thing
// that was computed until then.
type end struct {
	value uint32
	tail  int // its place, or returns
}

const returns = -1

// walk runs a program that compared has accepted.
func walk(p []Instruction, arch, number uint32) end {
	var a uint32
	for pc := 0; ; pc++ {
		in := p[pc]
		taken := false
		switch in.Code {
		case loadWord:
			if looksAtArgument(in) {
				return end{tail: pc}
			}
			if a = number; in.K == offsetArch {
				a = arch
			}
			continue
		case returnValue:
			return end{in.K, returns}
		case jumpAlways:
			pc += int(in.K)
			continue
		case jumpEqual:
			taken = a == in.K
		case jumpGreater:
			taken = a > in.K
		case jumpAtLeast:
			taken = a >= in.K
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
}

// span says what is true from one number on, up to the next span.
type span[T any] struct {
	from  uint32
	value T
}
