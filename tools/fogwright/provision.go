package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/fogwright/fogwright/firmware/disk"
	"github.com/fogwright/fogwright/initramfs/site"
)

func provisionCommand() *command {
	return &command{
		name: "provision", summary: "put a site.toml into a built image",
		usage: "-site FILE IMAGE ...",
		about: `Changes the factory partition of raw images (.img) in place, as one would with a
card reader on a flashed card. The slots stay as they were signed and hashed.`,
		examples: [][2]string{{"fogwright provision -site home.toml out/rpi3.img", "one image, your own home"}},
		run: func(fs *flag.FlagSet) runner {
			file := fs.String("site", "", "the site.toml `file`")
			return func(ctx context.Context, args []string, s stdio) error {
				if *file == "" || len(args) == 0 {
					return usagef("provision", "provision needs -site FILE and at least one image")
				}
				text, err := readSite(*file)
				if err != nil {
					return err
				}
				for _, image := range args {
					if err := disk.Provision(image, map[string][]byte{site.File: text}); err != nil {
						return err
					}
					fmt.Fprintf(s.out, "%s: %s written\n", image, site.File)
				}
				return nil
			}
		},
	}
}
