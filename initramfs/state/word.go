package state

import (
	"errors"
	"io/fs"
)

// Word is [Status.State]: the box in one word.
//
// A failure outranks what works, so that somebody who looks at one word only
// sees that something is wrong. A daemon that is merely being restarted is not a
// failure; one that keeps crashing is.
func (s *Status) Word() string {
	if !s.Boot.Ready {
		return "booting"
	}
	for _, p := range s.Boot.Phases {
		if p.Error != "" {
			return "degraded"
		}
	}
	for _, v := range s.Services {
		if v.State == "crashloop" {
			return "degraded"
		}
	}
	for _, w := range s.Workloads {
		if w.State == "crashloop" {
			return "degraded"
		}
	}
	if !s.Network.Online {
		return "offline"
	}
	for _, w := range s.Workloads {
		if w.State == "sharing" {
			return "sharing"
		}
	}
	return "online"
}

// Load fills in what the state files in dir say. A file that is not there yet
// leaves its part empty; a file that cannot be read is an error, and the rest is
// filled in all the same.
func (s *Status) Load(dir string) error {
	var services Services
	var workloads Workloads
	var first error
	for _, f := range []struct {
		name string
		into any
	}{
		{BootFile, &s.Boot},
		{ServicesFile, &services},
		{StorageFile, &s.Storage},
		{NetworkFile, &s.Network},
		{TimeFile, &s.Clock},
		{WorkloadsFile, &workloads},
	} {
		if err := Read(dir, f.name, f.into); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = err
		}
	}
	s.Services, s.Workloads = services.Services, workloads.Workloads
	return first
}
