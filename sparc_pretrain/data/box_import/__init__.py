"""Boxes with words from annotation files of many kinds, into shards and out again."""
