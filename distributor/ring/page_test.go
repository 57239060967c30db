package ring

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

type fakeSource struct {
	list      []Instance
	forgotten string
}

func (f *fakeSource) View() *View          { return NewView(f.list) }
func (f *fakeSource) Snapshot() []Instance { return f.list }
func (f *fakeSource) Forget(id string) error {
	if id == "alive" {
		return errors.New("it lives")
	}
	f.forgotten = id
	return nil
}

func TestPage(t *testing.T) {
	s := &fakeSource{list: []Instance{
		{ID: "alive", Roles: All, State: Active, Tokens: []uint32{7}, Seen: time.Now(), Registered: 1e18, Zone: "<z>"},
		{ID: "dead", Roles: Ingester, State: Active, Stale: true, Seen: time.Now().Add(-time.Hour)},
	}}
	page := Page(s, 1)
	ask := func(method, accept, form string) (int, string) {
		r := httptest.NewRequest(method, "/ring", strings.NewReader(form))
		r.Header.Set("Accept", accept)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		page.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	_, html := ask(http.MethodGet, "text/html", "")
	for _, want := range []string{"<td>alive</td><td>ACTIVE</td><td>distributor,ingester,querier,compactor</td><td>&lt;z&gt;</td>", "100.0%", "<td>UNHEALTHY</td>", "1h0m0s ago", `value="dead">Forget`} {
		if !strings.Contains(html, want) {
			t.Errorf("the page lacks %q:\n%s", want, html)
		}
	}
	if strings.Contains(html, `value="alive">Forget`) {
		t.Error("an instance that lives has a Forget button")
	}
	_, text := ask(http.MethodGet, "application/json", "")
	var got struct{ Shards []shown }
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Shards) != 2 || got.Shards[0].Ownership != 1 || got.Shards[1].State != "UNHEALTHY" {
		t.Errorf("%v: %s", err, text)
	}
	if code, _ := ask(http.MethodPost, "", url.Values{"forget": {"dead"}}.Encode()); code != http.StatusFound || s.forgotten != "dead" {
		t.Errorf("forgetting: status %d, forgotten %q", code, s.forgotten)
	}
	for form, want := range map[string]int{"": http.StatusBadRequest, "forget=alive": http.StatusNotFound} {
		if code, _ := ask(http.MethodPost, "", form); code != want {
			t.Errorf("POST %q: got %d, want %d", form, code, want)
		}
	}
}
