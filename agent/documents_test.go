package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// refused waits until text was said and asserts that what ran is untouched.
func (w *world) refused(text string, runs *ship) {
	w.t.Helper()
	w.until("it is refused: "+text, w.told1(text))
	w.pass(time.Hour)
	w.settledOn(runs)
}

func TestAnOlderSequenceIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.installed(5, v11())
		w.deploy(4, v10())
		w.refused("the deployment has sequence 4, this host has already accepted 5", v11())
	})
}

func TestADeploymentOfAnotherEnvironmentIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, v11(), func(d *release.Deployment) { d.Environment = staging })
		w.refused("is for billing in staging, this host runs billing in production", v10())
	})
}

func TestAReleaseThatIsNotTheSignedOneIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, v11(), func(d *release.Deployment) { d.Release.SHA256 = v12().digest })
		w.refused("the deployment signs release 1.1.0 with digest "+v12().digest.Short(), v10())
	})
}

func TestADocumentThatIsNoDeploymentIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.src.put(release.DeploymentPath(production, billing), []byte(`{"schema":"slipway.deployment/v1","surprise":1}`))
		w.machine.Wake()
		w.refused("surprise", v10())
	})
}

func TestWithoutADeploymentNothingHappensAndItSaysSo(t *testing.T) {
	story(t, func(w *world) {
		w.start()
		w.until("it is told", w.told1("no deployment of billing is signed for production"))
	})
}

func TestASignedRevertGoesToTheSignedFallback(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.installed(2, v11())
		w.deploy(3, v11(), func(d *release.Deployment) { d.State, d.Fallback = release.StateRevert, v10().ref() })
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		if _, bad := w.quarantine(v11()); bad {
			t.Error("a signed revert quarantines")
		}
		w.deploy(4, v11())
		w.until("a later deployment brings it back", w.rests(v11()))
	})
}

func TestASignedAbsenceTakesTheAppOffAndADeploymentBringsItBack(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, nil)
		w.until("it is off the host", w.ended("removed"))
		if !w.current().IsZero() || w.sup.running(billing) != "" {
			t.Errorf("current %s, running %q", w.current(), w.sup.running(billing))
		}
		if names, _ := w.units.Owned(billing); len(names) > 0 {
			t.Errorf("units are left: %v", names)
		}
		w.installed(3, v10())
		w.settledOn(v10())
	})
}

func TestARevokedReleaseIsKeptStoppedOrRevertedAsSigned(t *testing.T) {
	for policy, check := range map[string]func(w *world){
		"keep":   func(w *world) { w.pass(time.Hour); w.settledOn(v11()) },
		"revert": func(w *world) { w.until("it is reverted", w.ended("reverted")); w.settledOn(v10()) },
		"stop": func(w *world) {
			w.until("it is stopped", w.ended("removed"))
			if w.sup.running(billing) != "" {
				t.Error("it still runs")
			}
		},
	} {
		t.Run(policy, func(t *testing.T) {
			story(t, func(w *world) {
				w.installed(1, v10())
				w.installed(2, v11())
				digest := v11().digest
				e, err := release.Encode(&release.Emergency{
					Schema: release.EmergencySchema, Environment: production, Epoch: 1, Issued: time.Now(),
					Entries: []release.EmergencyEntry{{Kind: "revoke", Digest: &digest, Reason: "it leaks"}},
				})
				must(t, err)
				w.src.put(release.EmergencyPath(production), e)
				w.deploy(3, v11(), func(d *release.Deployment) { d.OnRevoked = policy })
				check(w)
				w.pass(3 * time.Hour)
				if w.current() == v11().id && policy != "keep" {
					t.Error("a revoked release is back")
				}
			})
		})
	}
}

func TestExpiredMetadataStopsStartsAndNotTheRevertOfATrial(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v11(), temper{DiesAfter: 10 * time.Second})
		w.inTrial()
		w.src.set(func(s *source) { s.expires["timestamp"] = time.Now().Add(-time.Hour) })
		w.until("it is reverted", w.ended("reverted"))
		w.deploy(3, v12())
		w.refused("metadata of timestamp expired", v10())
		w.src.set(func(s *source) { delete(s.expires, "timestamp") })
		w.until("fresh metadata lets it start", w.rests(v12()))
	})
}

func TestAnExpiredEmergencyDocumentStopsStarts(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.src.set(func(s *source) {
			s.errs[release.EmergencyPath(production)] = &agent.ExpiredError{Role: "emergency.production", At: time.Now()}
		})
		w.deploy(2, v11())
		w.refused("the emergency document of production has expired", v10())
	})
}

func TestADamagedArchiveIsRefusedAndCleanedUp(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.src.set(func(s *source) { s.corrupt = true })
		w.deploy(2, v11())
		w.until("it is refused", w.told1("cannot stage billing 1.1.0"))
		left, _ := filepath.Glob(filepath.Join(w.tree.Root(), "releases", ".incoming-*"))
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		w.settledOn(v10())
		w.src.set(func(s *source) { s.corrupt = false })
		w.until("a whole archive is accepted", w.rests(v11()))
	})
}

func TestStagingIsTriedAgainWithGrowingPauses(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.src.set(func(s *source) { s.flaky, s.staged = 4, 0 })
		began := time.Now()
		w.deploy(2, v11())
		w.until("it is staged at last", w.rests(v11()))
		if took := time.Since(began); w.src.staged != 5 || took < 15*15*time.Second {
			t.Errorf("%d tries in %s", w.src.staged, took)
		}
		if len(w.read().Retries) > 0 {
			t.Errorf("the back-off is remembered: %+v", w.read().Retries)
		}
	})
}

func TestAFallbackThatIsDamagedIsFoundByTheRehearsal(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		path := filepath.Join(w.tree.ReleaseDir(v10().id), "README")
		must(t, os.Chmod(path, 0o644))
		must(t, os.WriteFile(path, []byte("9.9.9\n"), 0o644))
		must(t, os.Chmod(path, 0o444))
		w.deploy(2, v11())
		w.until("it is refused", w.told1("cannot prove that going back would work"))
		w.pass(time.Hour)
		if w.current() != v10().id || len(w.read().History) != 1 {
			t.Errorf("current %s, history %+v", w.current(), w.read().History)
		}
		w.mustTell("README")
	})
}

func TestAReleaseDamagedAfterStagingIsStagedAnew(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, *world){
		"its tree": func(t *testing.T, w *world) { damage(t, w, v11()) },
		"its manifest": func(t *testing.T, w *world) {
			must(t, os.WriteFile(w.tree.ReleaseDir(v11().id)+".meta/manifest.json", []byte("{}"), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				w.installed(1, v10())
				_, err := w.machine.Hold(background, agent.Command{By: "ann"}, time.Time{})
				must(t, err)
				w.deploy(2, v11())
				w.until("it is staged and waits", w.phase(state.Waiting))
				damage(t, w)
				_, err = w.machine.Resume(background, command(w))
				must(t, err)
				w.until("it is staged anew", w.rests(v11()))
				w.settledOn(v11())
				if w.src.staged != 3 {
					t.Errorf("staged %d times", w.src.staged)
				}
			})
		})
	}
}

func TestAUnitThatBreaksTheRulesOrIsSomebodyElsesIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, vForbid())
		w.refused("1.5.0 is staged but refused", v10())
		foreign := filepath.Join(w.dir, "units", "billing-web.service")
		must(t, os.WriteFile(foreign, []byte("[Service]\nExecStart=/bin/true\n"), 0o644))
		w.deploy(3, vAlien())
		w.refused("the host already has a unit of this name that is not billing's", v10())
		if data, err := os.ReadFile(foreign); err != nil || !strings.Contains(string(data), "/bin/true") {
			t.Errorf("the foreign unit is %q (%v)", data, err)
		}
	})
}

// gateFunc is a gate that answers what it is told to.
type gateFunc func() error

func (gateFunc) Name() string                                { return "test" }
func (g gateFunc) Check(context.Context, gate.Subject) error { return g() }

func TestAGateThatDeniesOrDefersStopsTheActivation(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		var answer error = &gate.Denied{Gate: "test", Reason: "no provenance"}
		w.gates = []gate.Gate{gateFunc(func() error { return answer })}
		w.start()
		w.deploy(2, v11())
		w.refused("gate test refuses the release: no provenance", v10())
		until := time.Now().Add(2 * time.Hour)
		answer = &gate.Deferred{Gate: "test", Reason: "the scanner is busy", Until: until}
		w.machine.Wake()
		w.refused("gate test is not ready: the scanner is busy", v10())
		answer = nil
		w.machine.Wake()
		w.until("the gate passes it", w.rests(v11()))
	})
}

func TestAnUnwritableAuditLogStopsActivationsAndNoRevert(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v11(), temper{DiesAfter: 10 * time.Second})
		w.inTrial()
		must(t, w.log.Close())
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		w.deploy(3, v12())
		w.until("it is told", func() bool { return strings.Contains(w.why(), "cannot record the activation") })
		w.pass(time.Hour)
		w.settledOn(v10())
	})
}

func TestAChangeOfTheHostsVariablesRewritesTheDropIns(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.settings.Env = map[string]string{"REGION": "north 1"}
		w.machine.SetSettings(w.settings)
		path := filepath.Join(w.dir, "units", "billing.service.d", "10-slipway.conf")
		w.until("the drop-in has it", func() bool {
			data, _ := os.ReadFile(path)
			return strings.Contains(string(data), `Environment="REGION=north 1"`)
		})
		did := w.sup.did()
		if did[len(did)-1] != "reload" {
			t.Errorf("the manager was not told: %v", did)
		}
		w.settledOn(v10())
	})
}

func TestOneAppsTroubleDoesNotTouchAnother(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v10(), temper{HangStart: true})
		host := agent.NewHost(w.deps())
		host.Configure(map[release.App]agent.Settings{billing: w.settings, shop: w.settings}, time.Minute, 0)
		ctx, cancel := context.WithCancel(background)
		done := make(chan struct{})
		go func() { defer close(done); host.Run(ctx) }()
		defer func() { cancel(); <-done }()
		w.deploy(1, v10())
		w.app = shop
		w.deploy(1, vShop())
		w.tree = w.store.App(shop)
		w.until("the shop is committed while billing hangs", w.rests(vShop()))
		if st, err := w.state.Read(billing); err != nil || st.Phase != state.Activating {
			t.Errorf("billing is %v %v", st, err)
		}
		must(t, os.WriteFile(filepath.Join(w.state.Path(billing), "state.json"), []byte("?"), 0o644))
		w.deploy(2, vShop2())
		must(t, host.Refresh(background))
		w.until("the shop is upgraded while billing is damaged", w.rests(vShop2()))
	})
}

// paced signs a revert of s to back that hosts spread over four hours.
func paced(back *ship) deployOption {
	return func(d *release.Deployment) {
		d.State, d.Fallback = release.StateRevert, back.ref()
		d.Created = time.Now()
		d.Revert = &release.RevertPolicy{Spread: release.Duration(4 * time.Hour)}
	}
}

func TestAHostThatServesWaitsForItsTurnInASignedRevertAndOneThatDoesNotGoesAtOnce(t *testing.T) {
	for name, healthy := range map[string]bool{"serves": true, "does-not-serve": false} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				w.installed(1, v10())
				w.installed(2, v11())
				if !healthy {
					w.temper(v11(), temper{DiesAfter: time.Second})
				}
				w.deploy(3, v11(), paced(v10()))
				w.pass(time.Minute)
				if waits := w.current() == v11().id; waits != healthy {
					t.Errorf("after a minute current is %s: %s", w.current(), w.why())
				}
				w.until("it is reverted in the end", w.ended("reverted"))
				w.pass(time.Minute)
				w.settledOn(v10())
			})
		})
	}
}
