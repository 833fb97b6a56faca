// What @peculiar/x509 asks for as it is loaded (its README, "Installation"): import this before it. A module of its own, since a
// bundler calls a CommonJS package only where the file that imports it begins, after everything else that the file imports.
import 'reflect-metadata';
