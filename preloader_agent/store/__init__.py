"""The contract between host and guest: Docker's words, the store's layout, the disk's index. Pure, cheap to import."""
