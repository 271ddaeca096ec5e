package hostlocal_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni/hostlocal"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// TestMain is also the process that the tests start and kill.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "churn":
		churn(os.Args[1], os.Args[2])
	case "fifty":
		fifty(os.Args[1], os.Args[2])
	default:
		os.Exit(m.Run())
	}
}

const dual = `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`

// quiet is a testing.TB of a process that runs no test.
type quiet struct{ testing.TB }

func (quiet) Helper() {}

func (quiet) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(1) }

func (quiet) Errorf(format string, args ...any) { quiet{}.Fatal(fmt.Sprintf(format, args...)) }

func poolIn(dir string) *pool {
	return newPoolIn(quiet{}, dir, dual)
}

// churn adds and deletes until it is killed, and says before and after each call
// what it does.
func churn(dir, seed string) {
	p := poolIn(dir)
	var n uint64
	fmt.Sscan(seed, &n)
	random := rand.New(rand.NewPCG(n, 1))
	for {
		id := fmt.Sprint("c", random.IntN(8))
		if random.IntN(2) == 0 {
			fmt.Println("add", id)
			fmt.Println("added", id, strings.ReplaceAll(p.add(id), " ", "_"))
		} else {
			fmt.Println("del", id)
			p.del(id)
			fmt.Println("deleted", id)
		}
	}
}

// fifty adds as many.
func fifty(dir, prefix string) {
	p := poolIn(dir)
	for i := range 50 {
		fmt.Println(p.add(fmt.Sprint(prefix, i)))
	}
}

func process(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Stderr = args, os.Stderr
	return cmd
}

func TestProcessesAtOnce(t *testing.T) {
	dir := t.TempDir()
	var outs [4]bytes.Buffer
	var cmds [4]*exec.Cmd
	for i := range cmds {
		cmds[i] = process(t.Context(), "fifty", dir, fmt.Sprint("p", i, "-"))
		cmds[i].Stdout = &outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(outs[i].String()) {
			if strings.HasPrefix(line, "code") || seen[line] {
				t.Errorf("twice: %s", line)
			}
			seen[line] = true
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d different answers of 200", len(seen))
	}
}

// oracle is what the killed processes were told.
type oracle struct {
	has   map[string]string // by container, of answered calls
	inAir string            // whose call was not answered
}

func (o *oracle) hear(line string) {
	words := append(strings.Fields(line), "", "")
	switch id := words[1]; words[0] {
	case "add", "del":
		o.inAir = id
	case "added":
		o.has[id], o.inAir = words[2], ""
	case "deleted":
		delete(o.has, id)
		o.inAir = ""
	}
}

// TestKilled kills processes in the middle of ADD and DEL, some hundred times.
func TestKilled(t *testing.T) {
	const kills = 100
	dir := t.TempDir()
	o := &oracle{has: map[string]string{}}
	random := rand.New(rand.NewPCG(3, 4))
	unanswered := 0
	for i := range kills {
		cmd := process(t.Context(), "churn", dir, fmt.Sprint(i))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		first, _ := lines.ReadString('\n')
		time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		cmd.Process.Kill()
		o.hear(first)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // half a line was not said
			}
			o.hear(line)
		}
		cmd.Wait()
		if o.inAir != "" {
			unanswered++
		}
		o.compare(t, dir)
		if t.Failed() {
			t.Fatalf("after kill %d", i)
		}
	}
	t.Logf("%d of %d kills left a call without an answer", unanswered, kills)
	p := poolIn(dir)
	for i := range 8 {
		p.del(fmt.Sprint("c", i))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "n", "*[.:]*")); len(left) > 3 {
		t.Errorf("left: %q", left)
	}
}

// compare holds the files to the answers. A call without an answer may have had
// any part of its effect, which the next call for the container completes.
func (o *oracle) compare(t *testing.T, dir string) {
	t.Helper()
	held := map[string][]string{}
	files, _ := filepath.Glob(filepath.Join(dir, "n", "[1f]*[.:]*"))
	for _, file := range files {
		content, err := os.ReadFile(file)
		id, _, _ := strings.Cut(string(content), "\r\n")
		if err != nil || id == "" {
			t.Errorf("%s: %q, %v", file, content, err)
		}
		held[id] = append(held[id], filepath.Base(file))
	}
	for id, addrs := range held {
		switch want, told := o.has[id]; {
		case id == o.inAir:
		case !told:
			t.Errorf("%s has %v, and was never told or gave it back", id, addrs)
		case len(addrs) != 2 || !strings.Contains(want, addrs[0]+"/") || !strings.Contains(want, addrs[1]+"/"):
			t.Errorf("%s has %v and was told %s", id, addrs, want)
		}
	}
	for id, addrs := range o.has {
		if held[id] == nil && id != o.inAir {
			t.Errorf("%s lost %s", id, addrs)
		}
	}
	if o.inAir != "" { // and nobody knows what it has
		if _, err := poolIn(dir).call("DEL", o.inAir); err != nil {
			t.Error(err)
		}
		delete(o.has, o.inAir)
		o.inAir = ""
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	p := newPool(t, dual)
	p.add("x")
	lock, err := flock.Acquire(t.Context(), p.path("lock"), flock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	err = hostlocal.Command(ctx, []string{"list", "--data-dir", p.dir, "n"}, &out, &out)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another call has the lock: %v", err)
	}
}
