package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// command is one word of the command line: a group of others, or something to run.
type command struct {
	name    string
	summary string // one line
	usage   string // of the arguments: "-board NAME [flags]"
	about   string // what it does, for its own help
	// examples are pairs of a command line and what it is for.
	examples [][2]string
	// flags adds the command's flags and returns what runs it.
	run func(fs *flag.FlagSet) runner
	// sub are the commands of a group.
	sub []*command
	// path is the words that lead here, for messages.
	path string
}

// runner runs a command with the arguments that are left after its flags.
type runner func(ctx context.Context, args []string, s stdio) error

// errHelp says that help was asked for and printed.
var errHelp = errors.New("help was printed")

// usageError is a wrong command line.
type usageError struct {
	msg  string
	path string // of the command whose help tells more
}

func (e *usageError) Error() string {
	hint := "fogwright help"
	if e.path != "" {
		hint = "fogwright help " + e.path
	}
	return e.msg + "\nTry: " + hint
}

func usagef(path, format string, a ...any) error {
	return &usageError{fmt.Sprintf(format, a...), path}
}

// commands is the whole command line, in the order of its help.
func commands() *command {
	root := &command{name: "fogwright", sub: []*command{
		buildCommand(), runCommand(), boardsCommand(), boardCommand(), provisionCommand(),
		sourcesCommand(), ctlCommand(), completionCommand(),
	}}
	for _, c := range root.sub {
		c.path = c.name
		for _, s := range c.sub {
			s.path = c.name + " " + s.name
		}
	}
	return root
}

// find follows the words of args down to a command, and returns what is left.
// "help a b" is "a b -h".
func find(root *command, args []string) (*command, []string, error) {
	help := false
	if len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		help, args = true, args[1:]
	}
	cmd := root
	for len(args) > 0 && len(cmd.sub) > 0 {
		if args[0] == "-h" || args[0] == "--help" {
			return &command{name: cmd.name, path: cmd.path, summary: cmd.summary, sub: cmd.sub}, nil, nil
		}
		next := lookup(cmd, args[0])
		if next == nil {
			return nil, nil, usagef(cmd.path, "unknown command %q%s", strings.TrimSpace(cmd.path+" "+args[0]), nearest(cmd, args[0]))
		}
		cmd, args = next, args[1:]
	}
	if help {
		if cmd.run == nil {
			return cmd, nil, nil
		}
		return cmd, []string{"-h"}, nil
	}
	if len(cmd.sub) > 0 && cmd != root {
		return nil, nil, usagef(cmd.path, "%q needs one of: %s", cmd.path, strings.Join(names(cmd), ", "))
	}
	return cmd, args, nil
}

func lookup(c *command, name string) *command {
	for _, s := range c.sub {
		if s.name == name {
			return s
		}
	}
	return nil
}

func names(c *command) []string {
	var all []string
	for _, s := range c.sub {
		all = append(all, s.name)
	}
	return all
}

// nearest suggests the command that name is a beginning or a near miss of.
func nearest(c *command, name string) string {
	for _, s := range c.sub {
		if strings.HasPrefix(s.name, name) || strings.HasPrefix(name, s.name) {
			return fmt.Sprintf(" (did you mean %q?)", s.name)
		}
	}
	return ""
}

// start parses the command's flags and runs it.
func (c *command) start(ctx context.Context, args []string, s stdio) error {
	fs := c.flagSet()
	run := c.run(fs)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		printHelp(s.out, c, fs)
		return errHelp
	}
	if err != nil {
		return usagef(c.path, "%s: %v", c.path, err)
	}
	return run(ctx, fs.Args(), s)
}

func (c *command) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet(c.path, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// noArgs refuses arguments that are not flags.
func noArgs(path string, args []string) error {
	if len(args) > 0 {
		return usagef(path, "%s: unexpected argument %q", path, args[0])
	}
	return nil
}

func printHelp(w io.Writer, c *command, fs *flag.FlagSet) {
	fmt.Fprintf(w, "%s\n\nUsage:\n  fogwright %s\n", sentence(c.summary), strings.TrimSpace(c.path+" "+c.usage))
	if c.about != "" {
		fmt.Fprintf(w, "\n%s\n", c.about)
	}
	if len(c.examples) > 0 {
		fmt.Fprintln(w, "\nExamples:")
		for _, e := range c.examples {
			fmt.Fprintf(w, "  # %s\n  %s\n", e[1], e[0])
		}
	}
	header := "\nFlags:\n"
	fs.VisitAll(func(f *flag.Flag) {
		kind, text := flag.UnquoteUsage(f)
		def := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
			def = " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "%s  -%s\n        %s%s\n", header, strings.TrimSpace(f.Name+" "+kind), text, def)
		header = ""
	})
}

func printGroupHelp(w io.Writer, c *command) {
	if c.path == "" {
		fmt.Fprint(w, `Fogwright builds the firmware of shared-computing boxes and looks after them.

Start here:
  fogwright run -board pc-amd64     build a box, boot it in a virtual home, watch it share
  fogwright boards                  which boards there are, and what is proved about each
  fogwright build -board rpi3 -out out    make the files to flash

Commands:
`)
	} else {
		fmt.Fprintf(w, "%s\n\nUsage:\n  fogwright %s COMMAND [flags]\n\nCommands:\n", sentence(c.summary), c.path)
	}
	for _, s := range c.sub {
		fmt.Fprintf(w, "  %-12s %s\n", s.name, s.summary)
	}
	fmt.Fprintf(w, "\nfogwright help %s tells more. Exit codes: 0 done, 1 failed, 2 wrong usage.\n", strings.TrimSpace(c.path+" COMMAND"))
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func isTerminal(f *os.File) bool {
	return term.IsTerminal(int(f.Fd()))
}
