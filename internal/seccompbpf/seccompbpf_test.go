package seccompbpf_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/seccompbpf"
)

type program = []seccompbpf.Instruction

// Some instructions of linux/bpf_common.h.
const (
	load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	mask    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	always  = unix.BPF_JMP | unix.BPF_JA
	equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	greater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	anyBit  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	value   = unix.BPF_RET | unix.BPF_K
)

// Offsets in struct seccomp_data.
const number, arch, arg0, arg0High, arg1 = 0, 4, 16, 20, 24

func op(code uint16, k uint32) seccompbpf.Instruction {
	return seccompbpf.Instruction{Code: code, K: k}
}

func jump(code uint16, k uint32, jt, jf uint8) seccompbpf.Instruction {
	return seccompbpf.Instruction{Code: code, K: k, Jt: jt, Jf: jf}
}

// call is a struct seccomp_data, as the words that a program can load.
type call [16]uint32

// run is what the kernel does with a program, and how many instructions it takes. It
// fails on code that the kernel would refuse.
func run(t *testing.T, p program, c call) (result uint32, steps int) {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(p); pc++ {
		steps++
		in := p[pc]
		taken := false
		switch in.Code {
		case load:
			if in.K%4 != 0 || in.K >= 64 {
				t.Fatalf("instruction %d loads from %d", pc, in.K)
			}
			a = c[in.K/4]
			continue
		case mask:
			a &= in.K
			continue
		case always:
			pc += int(in.K)
			continue
		case value:
			return in.K, steps
		case equal:
			taken = a == in.K
		case greater:
			taken = a > in.K
		case atLeast:
			taken = a >= in.K
		case anyBit:
			taken = a&in.K != 0
		default:
			t.Fatalf("instruction %d has code %#x", pc, in.Code)
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("it has no end")
	return 0, 0
}

// like is a program as libseccomp makes it: for each architecture a comparison with each
// of the numbers, every seventh of which depends on arguments.
func like(archs []uint32, numbers int) program {
	var p program
	p = append(p, op(load, arch))
	for _, a := range archs {
		var part program
		part = append(part, op(load, number))
		for n := range uint32(numbers) {
			nr := n + n/15
			if n%7 != 6 {
				part = append(part, jump(equal, nr, 0, 1), op(value, unix.SECCOMP_RET_ALLOW))
				continue
			}
			part = append(part, jump(equal, nr, 0, 7),
				op(load, arg0High), jump(equal, 0, 0, 3),
				op(load, arg0), op(mask, 0x7e020000), jump(equal, 0, 1, 0),
				op(value, unix.SECCOMP_RET_ERRNO|n), op(value, unix.SECCOMP_RET_ALLOW))
		}
		part = append(part, op(value, unix.SECCOMP_RET_ERRNO|38))
		p = append(p, jump(equal, a, 1, 0), op(always, uint32(len(part))))
		p = append(p, part...)
	}
	return append(p, op(value, unix.SECCOMP_RET_KILL_PROCESS))
}

var x86 = []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386}

// TestHasten: the same answers for every number, in few steps.
func TestHasten(t *testing.T) {
	p := like(x86, 350)
	fast, err := seccompbpf.Hasten(p)
	if err != nil {
		t.Fatal(err)
	}
	if len(fast) > len(p) {
		t.Errorf("%d instructions instead of %d", len(fast), len(p))
	}
	var before, after int
	for _, a := range append([]uint32{0, 1, unix.AUDIT_ARCH_AARCH64, 0xffffffff}, x86...) {
		for n := range uint32(1000) {
			for _, nr := range []uint32{n, 0x40000000 + n, 0xffffffff - n} {
				for _, args := range [][2]uint32{{}, {1}, {0, 1}, {0x20000}, {0xffffffff, 0xffffffff}} {
					c := call{number / 4: nr, arch / 4: a, arg0 / 4: args[0], arg0High / 4: args[1]}
					want, slow := run(t, p, c)
					got, quick := run(t, fast, c)
					if got != want {
						t.Fatalf("arch %#x, number %#x, argument %#x: %#x instead of %#x", a, nr, args, got, want)
					}
					before, after = before+slow, after+quick
				}
			}
		}
	}
	if after*10 > before {
		t.Errorf("%d steps instead of %d", after, before)
	}
}

// TestHastenFar: halves of a bisection that are farther apart than a conditional jump
// leads.
func TestHastenFar(t *testing.T) {
	var p program
	p = append(p, op(load, number))
	for n := range uint32(1500) {
		p = append(p, jump(greater, 3000-2*n, 0, 1), op(value, n))
	}
	p = append(p, op(value, unix.SECCOMP_RET_KILL_PROCESS))
	fast, err := seccompbpf.Hasten(p)
	if err != nil {
		t.Fatal(err)
	}
	for nr := range uint32(3010) {
		want, _ := run(t, p, call{nr})
		if got, steps := run(t, fast, call{nr}); got != want || steps > 30 {
			t.Fatalf("number %d: %d instead of %d, in %d steps", nr, got, want, steps)
		}
	}
}

func many(n int) (archs []uint32) {
	for i := range uint32(n) {
		archs = append(archs, 2*i)
	}
	return archs
}

// TestHastenRefuses: programs in another form, and such as the kernel does not accept.
func TestHastenRefuses(t *testing.T) {
	end := op(value, unix.SECCOMP_RET_ALLOW)
	long := program{op(load, number)}
	for n := range uint32(1364) { // bisecting it takes two instructions more than a comparison does
		long = append(long, jump(equal, 3*n, 0, 1), op(value, n), op(always, 0))
	}
	for name, p := range map[string]program{
		"empty":              {},
		"no end":             {op(load, number)},
		"jumps out":          {jump(equal, 1, 0, 1), end},
		"jumps far out":      {op(always, 0xffffffff), end},
		"number masked":      {op(load, number), op(mask, 0xff), end},
		"bits of number":     {op(load, number), jump(anyBit, 1, 0, 0), end},
		"returns it":         {op(load, number), op(unix.BPF_RET|unix.BPF_A, 0), end},
		"other code":         {op(0x87, 0), end},
		"longer than 4096":   append(make(program, 4096), end),
		"takes too long":     like(many(100), 14),
		"result is too long": append(long, end),
	} {
		if got, err := seccompbpf.Hasten(p); !errors.Is(err, seccompbpf.ErrUnknown) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// FuzzHasten: whatever a program does with numbers and arguments, the other one does,
// too. The data are four bytes an instruction.
func FuzzHasten(f *testing.F) {
	f.Add([]byte("\x00\x04\x00\x00\x02\x07\x00\x01\x06\x01\x00\x00\x00\x00\x00\x00\x02\x05\x00\x01\x06\x02\x00\x00\x00\x10\x00\x00\x02\x03\x01\x00\x06\x09\x00\x00"))
	source := rand.NewPCG(1, 2)
	for range 300 {
		var data []byte
		for range 20 + source.Uint64()%60 {
			data = binary.NativeEndian.AppendUint32(data, uint32(source.Uint64()))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, constants := decode(data)
		fast, err := seccompbpf.Hasten(p)
		if err != nil {
			if !errors.Is(err, seccompbpf.ErrUnknown) {
				t.Fatal(err)
			}
			return
		}
		for _, nr := range constants {
			for _, a := range constants {
				for _, arg := range constants {
					c := call{number / 4: nr, arch / 4: a, arg0 / 4: arg, arg1 / 4: nr ^ arg}
					want, _ := run(t, p, c)
					if got, _ := run(t, fast, c); got != want {
						t.Fatalf("number %d, arch %d, argument %d: %#x instead of %#x\n%v\n%v", nr, a, arg, got, want, p, fast)
					}
				}
			}
		}
	})
}

// decode makes a program whose jumps stay in it, and returns the words worth a try.
func decode(data []byte) (p program, constants []uint32) {
	codes := []uint16{load, load, equal, greater, atLeast, value, always, equal, load, mask, anyBit}
	words := []uint32{number, arch, number, arg0, number, arch, arg1, number}
	n := min(len(data)/4, 200)
	constants = []uint32{0, 0xffffffff}
	for i := range n {
		b := data[4*i:]
		in := op(codes[int(b[0])%len(codes)], uint32(b[1]%16))
		left := n - i // instructions that follow, with the end
		switch in.Code {
		case load:
			in.K = words[int(b[1])%len(words)]
		case always:
			in.K = uint32(int(b[1]) % left)
		case value:
			in.K = uint32(i)
		case equal, greater, atLeast, anyBit:
			if b[1] == 0xff {
				in.K = 0xffffffff
			}
			in.Jt, in.Jf = uint8(int(b[2]%8)%left), uint8(int(b[3]%8)%left)
			constants = append(constants, in.K-1, in.K, in.K+1)
		}
		p = append(p, in)
	}
	slices.Sort(constants)
	return append(p, op(value, 0xabcd)), slices.Compact(constants)
}

// TestDecode: what Encode makes of a program, and nothing else.
func TestDecode(t *testing.T) {
	p := like(x86, 10)
	data := seccompbpf.Encode(p)
	if got, err := seccompbpf.Decode(data); err != nil || !slices.Equal(got, p) {
		t.Errorf("%v, %v", got, err)
	}
	for _, n := range []int{1, 7, 9, 4097 * 8} {
		if got, err := seccompbpf.Decode(make([]byte, n)); !errors.Is(err, seccompbpf.ErrUnknown) {
			t.Errorf("%d bytes: %d instructions, %v", n, len(got), err)
		}
	}
}

func BenchmarkHasten(b *testing.B) {
	p := like(x86, 350)
	for b.Loop() {
		if _, err := seccompbpf.Hasten(p); err != nil {
			b.Fatal(err)
		}
	}
}
