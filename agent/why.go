package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/discover"
	"github.com/skaldlog/skald/agent/tail"
)

// serveWhy explains what becomes of a file or of a pod's lines.
func (a *Agent) serveWhy(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query().Get("q")
	if q == "" {
		http.Error(w, "want ?q=PATH or ?q=POD", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, line := range a.engine().why(q) {
		fmt.Fprintln(w, line)
	}
}

// explanation gathers lines of text.
type explanation struct{ lines []string }

func (e *explanation) say(format string, args ...any) {
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

// why explains, in the order of a line's journey: discovery, relabelling, the file, how far it
// is read, and what the server says. A query that begins with a slash is a path, another one
// the name or uid of a pod.
func (rt *engine) why(q string) []string {
	e := &explanation{}
	if !strings.HasPrefix(q, "/") {
		rt.whyPod(e, q)
		return e.lines
	}
	rt.whyPath(e, filepath.Clean(q))
	rt.whyDelivery(e)
	return e.lines
}

// mentions reports whether a target is about a pod.
func mentions(ls labels.Labels, q string) bool {
	return ls.Get(discover.PodName) == q || ls.Get(discover.PodUID) == q ||
		ls.Get(discover.Namespace)+"/"+ls.Get(discover.PodName) == q
}

func (rt *engine) whyPod(e *explanation, q string) {
	found := false
	for _, j := range rt.jobs {
		jt := rt.targets.snapshot(j)
		for _, t := range jt.active {
			if !mentions(t.found.Labels, q) {
				continue
			}
			found = true
			e.say("job %s: container %s is followed as %s with labels %s", j.JobName, t.found.Labels.Get(discover.ContainerName), t.path, t.labels)
			if t.found.Guess != nil {
				e.say("  the Kubernetes API has not told about it; its labels come from the name of its directory")
				if h := t.hold.Load(); h > clock.Now() {
					e.say("  its lines wait for the API's labels")
				}
			}
			paths := globbed(t.path)
			if len(paths) == 0 {
				e.say("  no file matches%s", explainPattern(t.path))
			}
			for _, p := range paths {
				rt.whyFile(e, p)
			}
		}
		for _, u := range jt.dropped {
			if mentions(u.found.Labels, q) {
				found = true
				e.say("job %s: container %s is not followed: %s", j.JobName, u.found.Labels.Get(discover.ContainerName), u.why)
			}
		}
	}
	if found {
		rt.whyDelivery(e)
		return
	}
	e.say("no target is about a pod called %s", q)
	dirs := globbed(filepath.Join(rt.agent.opts.PodLogs, "*"+q+"*"))
	switch {
	case rt.agent.opts.PodLogs == "":
	case len(dirs) > 0:
		e.say("there is a directory %s: does a job have kubernetes_sd_configs with role pod?", dirs[0])
	default:
		e.say("%s has no directory of that name: the pod runs on another node, has no container that started, or the directory is not mounted%s",
			rt.agent.opts.PodLogs, explainPattern(rt.agent.opts.PodLogs))
	}
	e.say("this agent takes its node to be %q (from HOSTNAME, or the name of the machine): the API tells about pods of that node only", rt.host)
}

func (rt *engine) whyPath(e *explanation, path string) {
	matched := false
	for _, j := range rt.jobs {
		for _, t := range rt.targets.snapshot(j).active {
			p, err := tail.Compile(t.path)
			if err != nil || !p.Match(path) {
				continue
			}
			if t.exclude != "" {
				if x, err := tail.Compile(t.exclude); err == nil && x.Match(path) {
					e.say("job %s: %s matches, but __path_exclude__ %s excludes it", j.JobName, t.path, t.exclude)
					continue
				}
			}
			matched = true
			e.say("job %s: %s matches, with labels %s", j.JobName, t.path, t.labels)
			if h := t.hold.Load(); h > clock.Now() {
				e.say("  its lines wait for labels of the Kubernetes API")
			}
		}
	}
	if !matched {
		e.say("no target's __path__ matches %s", path)
		rt.whyNoMatch(e, path)
	}
	rt.whyFile(e, path)
}

// whyNoMatch looks for targets that would match, had they not been dropped.
func (rt *engine) whyNoMatch(e *explanation, path string) {
	for _, j := range rt.jobs {
		jt := rt.targets.snapshot(j)
		if j.files() && len(jt.active)+len(jt.dropped) == 0 {
			e.say("  job %s: nothing has been discovered yet", j.JobName)
		}
		for _, u := range jt.dropped {
			uid, pattern := u.found.Labels.Get(discover.PodUID), u.found.Labels.Get("__path__")
			p, err := tail.Compile(pattern)
			if uid != "" && strings.Contains(path, uid) || pattern != "" && err == nil && p.Match(path) {
				e.say("  job %s: a target from %s is dropped: %s", j.JobName, u.found.Source, u.why)
			}
		}
		for _, t := range jt.active {
			if filepath.Dir(t.path) == filepath.Dir(path) {
				e.say("  job %s: a target in the same directory has __path__ %s", j.JobName, t.path)
			}
		}
	}
}

// whyFile tells what the file is, and how far it has been read.
func (rt *engine) whyFile(e *explanation, path string) {
	followed := false
	for _, l := range rt.lanes {
		for _, f := range l.tailer.Logs() {
			if f.Path != path {
				continue
			}
			followed = true
			e.say("  %s is followed for client %s, job %s: %d of %d bytes read, %d behind for %s", path, l.name, f.Job, f.Read, f.Size, f.Lag, f.Behind)
			if f.Problem != "" {
				e.say("    problem: %s", f.Problem)
			}
		}
	}
	if !followed {
		e.say("  %s is not followed%s", path, explainPath(path))
	}
}

func (rt *engine) whyDelivery(e *explanation) {
	for _, v := range rt.views() {
		if v.Failure != "" {
			e.say("client %s: %s read and not yet acknowledged; the last push failed: %s", v.Name, v.Waiting, v.Failure)
		} else {
			e.say("client %s: %s read and not yet acknowledged; the last push succeeded, or there was none", v.Name, v.Waiting)
		}
	}
	e.say("lines that a stage drops are counted in skald_agent_stage_dropped_entries_total, those that a server refuses in skald_agent_dropped_entries_total; -inspect shows what stages do")
}

func globbed(pattern string) []string {
	list, _ := filepath.Glob(strings.ReplaceAll(pattern, "**", "*")) // a bad pattern has been refused before
	return list
}

// explainPath says what stands between the agent and a file: the first directory on the way
// that is missing or closed, a link that leads nowhere, or something that is no file.
func explainPath(path string) string {
	at := "/"
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		next := filepath.Join(at, part)
		fi, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return fmt.Sprintf(": permission denied in %s; the agent runs as uid %d", at, os.Getuid())
		case errors.Is(err, fs.ErrNotExist):
			if entries, err := os.ReadDir(at); err == nil && len(entries) == 0 {
				return fmt.Sprintf(": %s does not exist, and %s is empty; is it mounted?", next, at)
			} else if errors.Is(err, fs.ErrPermission) {
				return fmt.Sprintf(": permission denied in %s; the agent runs as uid %d", at, os.Getuid())
			}
			return fmt.Sprintf(": %s does not exist", next)
		case err != nil:
			return ": " + err.Error()
		case fi.Mode()&fs.ModeSymlink != 0:
			if _, err := os.Stat(next); err != nil {
				to, _ := os.Readlink(next) // for the message
				return fmt.Sprintf(": %s is a link to %s, which cannot be opened (%v); is what it leads to mounted?", next, to, err)
			}
		}
		at = next
	}
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return ": " + err.Error()
	case !fi.Mode().IsRegular():
		return fmt.Sprintf(": it is no regular file (%s)", fi.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf(": %v; the agent runs as uid %d", err, os.Getuid())
	}
	_ = f.Close() // read only
	return ": it can be read"
}

// explainPattern says why a pattern may match nothing: it looks at the part before the first
// special character.
func explainPattern(pattern string) string {
	fixed := pattern
	if i := strings.IndexAny(fixed, "*?[{"); i >= 0 {
		fixed = filepath.Dir(fixed[:i] + "x")
	}
	if fi, err := os.Stat(fixed); err != nil {
		return explainPath(fixed)
	} else if fi.IsDir() {
		entries, err := os.ReadDir(fixed)
		if err != nil {
			return fmt.Sprintf(": %v; the agent runs as uid %d", err, os.Getuid())
		}
		return fmt.Sprintf(": %s is there and has %d entries, none of which fits", fixed, len(entries))
	}
	return explainPath(fixed)
}
