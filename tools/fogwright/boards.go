package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"text/tabwriter"

	"github.com/fogwright/fogwright/boards"
)

func boardsCommand() *command {
	return &command{
		name: "boards", summary: "list the boards, and what is proved about each",
		usage: "[-json]",
		about: `Status "booted" means that the tests boot the board's own, whole boot chain;
"built" means that its image is checked for structure only. Neither means that
anybody held the real hardware in hand; the proof says what was done.`,
		run: func(fs *flag.FlagSet) runner {
			asJSON := fs.Bool("json", false, "print JSON")
			return func(ctx context.Context, args []string, s stdio) error {
				if err := noArgs("boards", args); err != nil {
					return err
				}
				var rows []boardRow
				for _, name := range boards.Names() {
					b, err := boards.Open(name)
					if err != nil {
						return err
					}
					rows = append(rows, boardRow{name, b.Arch, b.Boot.Chain, b.Status, b.Description, b.Proof})
				}
				if *asJSON {
					return json.NewEncoder(s.out).Encode(rows)
				}
				w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "BOARD\tARCH\tCHAIN\tSTATUS\tWHAT IT IS")
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Arch, r.Chain, r.Status, r.Description)
				}
				if err := w.Flush(); err != nil {
					return err
				}
				fmt.Fprintln(s.out, "\nWhat is proved:")
				for _, r := range rows {
					fmt.Fprintf(s.out, "  %s: %s\n", r.Name, r.Proof)
				}
				return nil
			}
		},
	}
}

type boardRow struct {
	Name        string `json:"name"`
	Arch        string `json:"arch"`
	Chain       string `json:"chain"`
	Status      string `json:"status"`
	Description string `json:"description"`
	Proof       string `json:"proof"`
}

func boardCommand() *command {
	check := &command{
		name: "check", summary: "check a board's folder, all faults at once",
		usage:    "NAME|FOLDER ...",
		examples: [][2]string{{"fogwright board check ./my-board", "before the first build of a new board"}},
		run: func(fs *flag.FlagSet) runner {
			return func(ctx context.Context, args []string, s stdio) error {
				if len(args) == 0 {
					return usagef("board check", "board check needs a board's name or folder")
				}
				for _, a := range args {
					b, err := boards.Find(a)
					if err != nil {
						return err
					}
					fmt.Fprintf(s.out, "%s: good (%s, %s, %s table; kernel modules are checked against the package when it is built)\n", b.Name, b.Arch, b.Boot.Chain, b.Disk.Table)
				}
				return nil
			}
		},
	}
	return &command{name: "board", summary: "work on a board's folder", sub: []*command{check}}
}
