"""The contract between host and guest: Docker's words, the store's layout and the disk's index. Pure, and cheap to import."""
